"""Names of values that rematerialisation policies may keep (`model/remat/kept.py`).

Whoever computes attention names its result `ATTENDED`. A kernel with a gradient of its own names
what that gradient needs in its forward rule: nobody outside reaches it.
"""

#: Queries, and the keys and values (or latent vectors) that they read.
QKV = "qkv"
#: Attention's result, before the output projection.
ATTENDED = "attended"
#: Hidden values of a dense MLP before its activation.
MLP_HIDDEN = "mlp_hidden"
