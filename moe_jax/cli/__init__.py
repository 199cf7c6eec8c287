"""The `moe-jax` command: one module a verb, and nothing that a Python program would import.

`main.py` knows the verbs' names and imports the one that is asked for. A verb's module has
`add_arguments(parser)` and a `run(args)` that returns an exit code; what `run` needs of JAX it
imports itself, after the arguments and the config have been found good, so that help and most
mistakes come at once. What several verbs share is in `shared/`; no verb imports another.
"""
