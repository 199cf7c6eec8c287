"""The transformer: its structure, how its layers run on a mesh, its loss, its cache.

`skeleton` knows names, shapes and shardings; `weights` are the values; `transformer` computes, by
`stack` (scan or `pipeline`), `unit` and `block`; `decoding` is the same with a `cache`.
"""
