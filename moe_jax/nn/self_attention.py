"""The steps that every kind of self-attention is made of, so that a cache can come between them.

`attention.py` and `latent_attention.py` have the kinds; what a cache is, `cached_attention.py`.
"""

from abc import abstractmethod

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from moe_jax.nn.dot_attention import Implementation
from moe_jax.nn.names import ATTENDED, QKV
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.tensor import ONE, TensorAxis

#: Arrays [b, s, ...] that a cache keeps of each token.
Entry = tuple[Array, ...]


class SelfAttention(nnx.Module):
    """`project`, then `attend` (whole sequences) or `attend_cached` (a token each), then `output`.

    u and v are the widths of a head's queries and values.
    """

    def __call__(
        self,
        x_bsd: BatchBSD,
        positions_bs: WholeBS,
        segments_bs: WholeBS | None,
        implementation: Implementation,
        tensor: TensorAxis = ONE,
    ) -> BatchBSD:
        """Return what whole sequences add to the residual stream."""
        projected = self.project(x_bsd, positions_bs, tensor)
        q_bshu, entry = checkpoint_name(projected, QKV)
        o_bshv = self.attend(q_bshu, entry, segments_bs, implementation)
        if implementation == "xla":
            # Of a fused kernel more is kept than this: what its gradient needs.
            o_bshv = checkpoint_name(o_bshv, ATTENDED)
        return self.output(o_bshv, tensor)

    @abstractmethod
    def project(
        self, x_bsd: BatchBSD, positions_bs: WholeBS, tensor: TensorAxis = ONE
    ) -> tuple[Float[Array, "b whole h u"], Entry]:
        """Return rotated queries of this device's heads, and what a cache keeps of each token."""

    @abstractmethod
    def attend(
        self,
        q_bshu: Float[Array, "b s h u"],
        entry: Entry,
        segments_bs: WholeBS | None,
        implementation: Implementation,
    ) -> Float[Array, "b s h v"]:
        """Return the attention of whole sequences to themselves."""

    @abstractmethod
    def attend_cached(
        self, q_bhu: Float[Array, "b h u"], cache: Entry, visible_bc: Bool[Array, "b c"]
    ) -> Float[Array, "b h v"]:
        """Return the attention of one token per sequence to what a cache holds."""

    @abstractmethod
    def output(self, o_bshv: Float[Array, "b whole h v"], tensor: TensorAxis = ONE) -> BatchBSD:
        """Return what all heads together add to the residual stream."""
