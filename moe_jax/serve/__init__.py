"""Serves a language model over HTTP as OpenAI's API does, many requests at a time.

From outside in: `server` listens, `app` has the routes, `parameters` and `job` turn a request's
JSON into what the batcher takes, `worker` runs the batcher in a thread, `formats` writes answers.
"""
