"""Grouped-query causal self-attention as a module: projections, QK-norm, rotary positions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.nn.cached_attention import cached_attention
from moe_jax.nn.dot_attention import Implementation, dot_attention
from moe_jax.nn.norm import RMSNorm
from moe_jax.nn.param import constant, weight
from moe_jax.nn.rope import rotate
from moe_jax.nn.self_attention import Entry, SelfAttention
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.tensor import ONE, TensorAxis


class Attention(SelfAttention):
    """x -> softmax(scale q kᵀ) v w_out, with h query heads on g key/value heads.

    Heads are split over the tensor axis; the key/value heads too, unless they are fewer.
    """

    def __init__(
        self, model: ModelConfig, precision: PrecisionConfig, window: int, *, rngs: nnx.Rngs
    ):
        config = model.attention
        d, h, g, m = model.d_model, config.heads, config.kv_heads, config.head_dim
        std = model.init_std
        self.w_q_dhm = weight(rngs, (d, h, m), ("embed", "heads", "head_dim"), precision, std)
        self.w_k_dgm = weight(rngs, (d, g, m), ("embed", "kv_heads", "head_dim"), precision, std)
        self.w_v_dgm = weight(rngs, (d, g, m), ("embed", "kv_heads", "head_dim"), precision, std)
        out_std = std / (2 * model.num_layers) ** 0.5
        axes = ("heads", "head_dim", "embed")
        self.w_out_hmd = weight(rngs, (h, m, d), axes, precision, out_std)
        self._add_biases(model, precision)
        self._add_norms(model, precision)
        if config.sinks == "per_head":
            self.sink_h = constant(0.0, (h,), ("heads",), precision)
        self.config = config
        self.window = window
        self.scale = config.scale or m**-0.5
        self.norm_eps = model.norm_eps
        self.dtype = jnp.dtype(precision.compute)

    def project(
        self, x_bsd: BatchBSD, positions_bs: WholeBS, tensor: TensorAxis = ONE
    ) -> tuple[Float[Array, "b whole h m"], Entry]:
        """Return rotated queries of this device's heads, and the keys and values they read."""
        x_bsd = tensor.enter(x_bsd)
        q_bshm = self._project(x_bsd, self.w_q_dhm[...], self._bias("b_q_hm"))
        keys = self._own_kv_heads(tensor, self.w_k_dgm[...], self._bias("b_k_gm"))
        values = self._own_kv_heads(tensor, self.w_v_dgm[...], self._bias("b_v_gm"))
        k_bsgm, v_bsgm = self._project(x_bsd, *keys), self._project(x_bsd, *values)
        q_bshm, k_bsgm = self._normed(q_bshm, k_bsgm, tensor)
        q_bshm, k_bsgm, v_bsgm = map(self._clipped, (q_bshm, k_bsgm, v_bsgm))
        q_bshm = rotate(q_bshm, positions_bs, self.config.rope)
        k_bsgm = rotate(k_bsgm, positions_bs, self.config.rope)
        return q_bshm, (k_bsgm, v_bsgm)

    def attend(
        self,
        q_bshm: Float[Array, "b s h m"],
        entry: Entry,
        segments_bs: WholeBS | None,
        implementation: Implementation,
    ) -> Float[Array, "b s h m"]:
        """Return the attention of whole sequences to themselves."""
        k_bsgm, v_bsgm = entry
        return dot_attention(
            q_bshm,
            k_bsgm,
            v_bsgm,
            segments_bs,
            window=self.window,
            implementation=implementation,
            query_block=self.config.query_block,
            scale=self.scale,
            sinks_h=self._sinks(),
        )

    def attend_cached(
        self, q_bhm: Float[Array, "b h m"], cache: Entry, visible_bc: Bool[Array, "b c"]
    ) -> Float[Array, "b h m"]:
        """Return the attention of one token per sequence to cached keys and values."""
        k_bcgm, v_bcgm = cache
        return cached_attention(
            q_bhm, k_bcgm, v_bcgm, visible_bc, scale=self.scale, sinks_h=self._sinks()
        )

    def output(self, o_bshm: Float[Array, "b whole h m"], tensor: TensorAxis = ONE) -> BatchBSD:
        """Return what all heads together add to the residual stream."""
        y_bsd = jnp.einsum("bshm,hmd->bsd", o_bshm, self.w_out_hmd[...].astype(self.dtype))
        y_bsd = tensor.leave(y_bsd)
        if self.config.bias == "all":
            y_bsd = y_bsd + self.b_out_d[...].astype(self.dtype)
        return y_bsd

    def _project(self, x_bsd: BatchBSD, w_dhm: Array, b_hm: Array | None) -> Array:
        y = jnp.einsum("bsd,dhm->bshm", x_bsd, w_dhm.astype(self.dtype))
        return y if b_hm is None else y + b_hm.astype(self.dtype)

    def _normed(self, q_bshm: Array, k_bsgm: Array, tensor: TensorAxis) -> tuple[Array, Array]:
        if self.config.qk_norm == "none":
            return q_bshm, k_bsgm
        if self.config.qk_norm == "head":
            return self.q_norm(q_bshm), self.k_norm(k_bsgm)
        (k_scale_gm, _) = self._own_kv_heads(tensor, self.k_scale_gm[...], None, dim=0)
        q_bshm = _norm_of_all_heads(q_bshm, self.q_scale_hm[...], self.norm_eps, tensor)
        return q_bshm, _norm_of_all_heads(k_bsgm, k_scale_gm, self.norm_eps, tensor)

    def _clipped(self, x: Array) -> Array:
        limit = self.config.clip_qkv
        return jnp.clip(x, -limit, limit) if limit else x

    def _own_kv_heads(
        self, tensor: TensorAxis, w_dgm: Array, b_gm: Array | None, dim: int = 1
    ) -> tuple[Array, Array | None]:
        """Return the key or value heads, at `dim` of w, that this device's query heads read.

        Where the axis is larger than the number of heads, each device stores all and uses one.

        Args:
            tensor: the tensor axis.
            w_dgm: the heads as stored.
            b_gm: their biases; None for none.
            dim: of w, where the heads are.
        """
        if self.config.kv_heads % tensor.size == 0:
            return w_dgm, b_gm
        head = tensor.index() * self.config.kv_heads // tensor.size
        w_dgm = jax.lax.dynamic_slice_in_dim(w_dgm, head, 1, axis=dim)
        if b_gm is not None:
            b_gm = jax.lax.dynamic_slice_in_dim(b_gm, head, 1, axis=0)
        return w_dgm, b_gm

    def _bias(self, name: str) -> Array | None:
        return None if self.config.bias == "none" else getattr(self, name)[...]

    def _sinks(self) -> Array | None:
        return self.sink_h[...] if self.config.sinks == "per_head" else None

    def _add_biases(self, model: ModelConfig, precision: PrecisionConfig) -> None:
        config = model.attention
        if config.bias == "none":
            return
        h, g, m = config.heads, config.kv_heads, config.head_dim
        self.b_q_hm = constant(0.0, (h, m), ("heads", "head_dim"), precision)
        self.b_k_gm = constant(0.0, (g, m), ("kv_heads", "head_dim"), precision)
        self.b_v_gm = constant(0.0, (g, m), ("kv_heads", "head_dim"), precision)
        if config.bias == "all":
            self.b_out_d = constant(0.0, (model.d_model,), ("norm",), precision)

    def _add_norms(self, model: ModelConfig, precision: PrecisionConfig) -> None:
        config = model.attention
        h, g, m = config.heads, config.kv_heads, config.head_dim
        if config.qk_norm == "head":
            self.q_norm = RMSNorm(m, model.norm_eps, precision, axis="head_dim")
            self.k_norm = RMSNorm(m, model.norm_eps, precision, axis="head_dim")
        elif config.qk_norm == "all_heads":
            self.q_scale_hm = constant(1.0, (h, m), ("heads", "head_dim"), precision)
            self.k_scale_gm = constant(1.0, (g, m), ("kv_heads", "head_dim"), precision)


def _norm_of_all_heads(
    x_bshm: Float[Array, "b s h m"], scale_hm: Array, eps: float, tensor: TensorAxis
) -> Float[Array, "b s h m"]:
    """RMSNorm over heads and their dimensions, whose heads are split over the tensor axis.

    Where devices share a key/value head, each head counts as often as the others: same mean.
    """
    x32 = x_bshm.astype(jnp.float32)
    squares = jnp.mean(jnp.square(x32), axis=(-2, -1), keepdims=True)
    inverse = jax.lax.rsqrt(tensor.sum(squares) / tensor.size + eps)
    return (x32 * inverse * scale_hm.astype(jnp.float32)).astype(x_bshm.dtype)
