"""Scaled dot-product attention behind one call: cuDNN's fused kernels, or blocks in XLA.

Projections, rotary positions and normalisation live in `../attention.py` and
`../latent_attention.py`; attention to cached tokens in `../cached_attention.py`; who may take which
implementation in `choose.py`.
"""

from typing import Literal

from jaxtyping import Array, Float, Int

from moe_jax.nn.dot_attention.cudnn import cudnn_attention
from moe_jax.nn.dot_attention.xla import xla_attention

Implementation = Literal["xla", "cudnn"]


def dot_attention(
    q_bshm: Float[Array, "b s h m"],
    k_bsgm: Float[Array, "b s g m"],
    v_bsgn: Float[Array, "b s g n"],
    segments_bs: Int[Array, "b s"] | None,
    *,
    window: int,
    implementation: Implementation,
    query_block: int,
    scale: float | None = None,
    sinks_h: Float[Array, " h"] | None = None,
) -> Float[Array, "b s h n"]:
    """Return causal attention: softmax(scale q kᵀ) v with h query heads on g key/value heads.

    Args:
        q_bshm: queries; h must be a multiple of g.
        k_bsgm: keys.
        v_bsgn: values, of any width of their own.
        segments_bs: document of each token; tokens see only their own. A document is one run of
            neighbours with the same number. None: no documents.
        window: tokens see at most this many positions, themselves included (0 = all).
        implementation: "cudnn" needs bfloat16 or float16 on an NVIDIA GPU; `choose.py` has the
            rest.
        query_block: queries handled at a time by "xla"; bounds memory at block x s per head.
        scale: of the logits; None: one over the square root of m.
        sinks_h: a further logit per head in every softmax, without a value (Xiao et al., 2023).

    Raises:
        UserError: the batch is too large for the kernels' offsets.
    """
    by = float(q_bshm.shape[-1] ** -0.5) if scale is None else scale
    # cuDNN refuses rows of a single token, such as the shortest prompts.
    if implementation == "cudnn" and q_bshm.shape[1] > 1:
        return cudnn_attention(q_bshm, k_bsgm, v_bsgn, segments_bs, sinks_h, by, window)
    return xla_attention(q_bshm, k_bsgm, v_bsgn, segments_bs, sinks_h, by, window, query_block)
