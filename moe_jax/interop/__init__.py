"""Models of Hugging Face directories: read, converted both ways, upcycled.

A directory becomes a model of ours in four steps: `files/` opens it without running anything in it,
`families/` names its tensors and settings (kinds of entries are in `table/`), `config_json`
translates its config.json, and `tensors/` says which slab of which parameter each tensor holds.
`open` does the first three; `load` then reads weights onto a mesh, `convert` into a checkpoint, and
`export` is the way back. `upcycle` makes a Mixture of Experts of a `dense_model`.
"""
