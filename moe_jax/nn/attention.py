"""Grouped-query causal self-attention as a module: projections, QK-norm, rotary positions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from moe_jax.config.schema import ModelConfig, PrecisionConfig
from moe_jax.nn.dot_attention import Implementation, dot_attention
from moe_jax.nn.norm import RMSNorm
from moe_jax.nn.param import constant, weight
from moe_jax.nn.rope import rotate
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.tensor import ONE, TensorAxis


class Attention(nnx.Module):
    """x -> softmax(q kᵀ / sqrt(m)) v w_out, with h query heads on g key/value heads.

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
        if config.qk_norm == "head":
            self.q_norm = RMSNorm(m, model.norm_eps, precision, axis="head_dim")
            self.k_norm = RMSNorm(m, model.norm_eps, precision, axis="head_dim")
        self.config = config
        self.window = window
        self.dtype = jnp.dtype(precision.compute)

    def __call__(
        self,
        x_bsd: BatchBSD,
        positions_bs: WholeBS,
        segments_bs: WholeBS | None,
        implementation: Implementation,
        tensor: TensorAxis = ONE,
    ) -> BatchBSD:
        x_bsd = tensor.enter(x_bsd)
        q_bshm = self._project(x_bsd, self.w_q_dhm[...], self._bias("b_q_hm"))
        keys = self._own_kv_heads(tensor, self.w_k_dgm[...], self._bias("b_k_gm"))
        values = self._own_kv_heads(tensor, self.w_v_dgm[...], self._bias("b_v_gm"))
        k_bsgm, v_bsgm = self._project(x_bsd, *keys), self._project(x_bsd, *values)
        if self.config.qk_norm == "head":
            q_bshm, k_bsgm = self.q_norm(q_bshm), self.k_norm(k_bsgm)
        q_bshm = rotate(q_bshm, positions_bs, self.config.rope)
        k_bsgm = rotate(k_bsgm, positions_bs, self.config.rope)
        o_bshm = dot_attention(
            q_bshm,
            k_bsgm,
            v_bsgm,
            segments_bs,
            window=self.window,
            implementation=implementation,
            query_block=self.config.query_block,
        )
        y_bsd = jnp.einsum("bshm,hmd->bsd", o_bshm, self.w_out_hmd[...].astype(self.dtype))
        y_bsd = tensor.leave(y_bsd)
        if self.config.bias == "all":
            y_bsd = y_bsd + self.b_out_d[...].astype(self.dtype)
        return y_bsd

    def _project(self, x_bsd: BatchBSD, w_dhm: Array, b_hm: Array | None) -> Array:
        y = jnp.einsum("bsd,dhm->bshm", x_bsd, w_dhm.astype(self.dtype))
        return y if b_hm is None else y + b_hm.astype(self.dtype)

    def _own_kv_heads(
        self, tensor: TensorAxis, w_dgm: Array, b_gm: Array | None
    ) -> tuple[Array, Array | None]:
        """Returns the key or value heads that this device's query heads read.

        Where the axis is larger than the number of heads, each device stores all and uses one.
        """
        if self.config.kv_heads % tensor.size == 0:
            return w_dgm, b_gm
        head = tensor.index() * self.config.kv_heads // tensor.size
        w_dgm = jax.lax.dynamic_slice_in_dim(w_dgm, head, 1, axis=1)
        if b_gm is not None:
            b_gm = jax.lax.dynamic_slice_in_dim(b_gm, head, 1, axis=0)
        return w_dgm, b_gm

    def _bias(self, name: str) -> Array | None:
        return None if self.config.bias == "none" else getattr(self, name)[...]

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
