"""The one legend of dimension suffixes, and the array types built from it.

A tensor's name ends in its logical dimensions, in order: `x_td` is [tokens, d_model]. The same
letters appear in einsum strings and in jaxtyping annotations. Nothing else belongs in this file.

    b  batch (sequences)       e  experts (all)          c  cache positions
    s  sequence positions      l  experts on this device  n  streams
    t  tokens (b x s)          k  experts per token (top-k)
    d  d_model                 r  rows (one row = one token sent to one expert)
    f  d_ff (hidden size)      h  query heads
    v  vocabulary              g  key/value heads        m  head dimension
"""

from jaxtyping import Array, Bool, Float, Int

TokensTD = Float[Array, "t d"]
BatchBSD = Float[Array, "b s d"]
RowsLRD = Float[Array, "l r d"]
IdsBS = Int[Array, "b s"]
#: Of whole sequences, where activations [b, s, d] may hold a device's part of each.
WholeBS = Int[Array, "b whole"]
ScoresTE = Float[Array, "t e"]
ChoicesTK = Int[Array, "t k"]
WeightsTK = Float[Array, "t k"]
MaskBS = Bool[Array, "b s"]

__all__ = [
    "BatchBSD",
    "ChoicesTK",
    "IdsBS",
    "MaskBS",
    "RowsLRD",
    "ScoresTE",
    "TokensTD",
    "WeightsTK",
    "WholeBS",
]
