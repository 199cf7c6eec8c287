"""Multi-head latent attention (DeepSeek-V2, 2024): keys and values come from a small latent vector.

Whole sequences expand the latent vectors into keys and values. Decoding does not: what would
expand the cached vectors is applied to the query and to the result instead, so that the cache
holds and attention reads one latent vector (and one rotated key) per token for all heads.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.nn.cached_attention import cached_attention
from moe_jax.nn.dot_attention import Implementation, dot_attention
from moe_jax.nn.norm import RMSNorm
from moe_jax.nn.param import weight
from moe_jax.nn.rope import rotate
from moe_jax.nn.self_attention import Entry, SelfAttention
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.tensor import ONE, TensorAxis


class LatentAttention(SelfAttention):
    """c = norm(x w_down), k = [c w_k, rotated x w_k_rope], v = c w_v; queries likewise or from x.

    Heads are split over the tensor axis; latent vectors are computed on each of its devices.
    """

    def __init__(
        self, model: ModelConfig, precision: PrecisionConfig, window: int, *, rngs: nnx.Rngs
    ):
        config, latent, std = model.attention, model.attention.latent, model.init_std
        d, h, m = model.d_model, config.heads, config.head_dim
        r, p, v = latent.kv_rank, latent.rope_head_dim, latent.value_head_dim

        def matrix(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
            return weight(rngs, shape, axes, precision, std)

        source, width = "embed", d
        if latent.q_rank:
            source, width = "latent", latent.q_rank
            self.w_q_down_di = matrix((d, width), ("embed", "latent"))
            self.q_norm = RMSNorm(width, model.norm_eps, precision, axis="latent")
        self.w_q_ihm = matrix((width, h, m), (source, "heads", "head_dim"))
        self.w_q_rope_ihp = matrix((width, h, p), (source, "heads", "head_dim"))
        self.w_kv_down_dr = matrix((d, r), ("embed", "latent"))
        self.kv_norm = RMSNorm(r, model.norm_eps, precision, axis="latent")
        self.w_k_rope_dp = matrix((d, p), ("embed", "head_dim"))
        self.w_k_rhm = matrix((r, h, m), ("latent", "heads", "head_dim"))
        self.w_v_rhv = matrix((r, h, v), ("latent", "heads", "head_dim"))
        out_std = std / (2 * model.num_layers) ** 0.5
        axes = ("heads", "head_dim", "embed")
        self.w_out_hvd = weight(rngs, (h, v, d), axes, precision, out_std)
        self.config = config
        self.window = window
        self.scale = config.scale or (m + p) ** -0.5
        self.dtype = jnp.dtype(precision.compute)

    def project(
        self, x_bsd: BatchBSD, positions_bs: WholeBS, tensor: TensorAxis = ONE
    ) -> tuple[Float[Array, "b whole h mp"], Entry]:
        """Return queries of this device's heads, and [latent vector, rotated key] as one entry."""
        x_bsd = tensor.enter(x_bsd)
        source = x_bsd
        if self.config.latent.q_rank:
            source = self.q_norm(self._product("bsd,di->bsi", x_bsd, self.w_q_down_di))
        q_bshm = self._product("bsi,ihm->bshm", source, self.w_q_ihm)
        q_rope = self._product("bsi,ihp->bshp", source, self.w_q_rope_ihp)
        q_rope = rotate(q_rope, positions_bs, self.config.rope)
        latent_bsr = self.kv_norm(self._product("bsd,dr->bsr", x_bsd, self.w_kv_down_dr))
        k_rope = self._product("bsd,dp->bsp", x_bsd, self.w_k_rope_dp)[:, :, None]
        k_rope = rotate(k_rope, positions_bs, self.config.rope)
        entry = jnp.concatenate([latent_bsr[:, :, None], k_rope], axis=-1)
        return jnp.concatenate([q_bshm, q_rope], axis=-1), (entry,)

    def attend(
        self,
        q_bshm: Float[Array, "b s h mp"],
        entry: Entry,
        segments_bs: WholeBS | None,
        implementation: Implementation,
    ) -> Float[Array, "b s h v"]:
        """Return the attention of whole sequences to themselves."""
        latent_bsr, k_rope_bs1p = self._split(entry[0])
        k_bshm = self._product("bsr,rhm->bshm", latent_bsr[:, :, 0], self.w_k_rhm)
        v_bshv = self._product("bsr,rhv->bshv", latent_bsr[:, :, 0], self.w_v_rhv)
        k_rope = jnp.broadcast_to(k_rope_bs1p, (*k_bshm.shape[:3], k_rope_bs1p.shape[-1]))
        k_bshm = jnp.concatenate([k_bshm, k_rope], axis=-1)
        return dot_attention(
            q_bshm,
            k_bshm,
            v_bshv,
            segments_bs,
            window=self.window,
            implementation=implementation,
            query_block=self.config.query_block,
            scale=self.scale,
        )

    def attend_cached(
        self, q_bhm: Float[Array, "b h mp"], cache: Entry, visible_bc: Bool[Array, "b c"]
    ) -> Float[Array, "b h v"]:
        """Return the attention of one token per sequence to cached latent vectors."""
        q_bhm, q_rope = jnp.split(q_bhm, [self.config.head_dim], axis=-1)
        q_latent = self._product("bhm,rhm->bhr", q_bhm, self.w_k_rhm)
        o_bhr = cached_attention(
            jnp.concatenate([q_latent, q_rope], axis=-1),
            cache[0],
            self._split(cache[0])[0],
            visible_bc,
            scale=self.scale,
        )
        return self._product("bhr,rhv->bhv", o_bhr, self.w_v_rhv)

    def output(self, o_bshv: Float[Array, "b whole h v"], tensor: TensorAxis = ONE) -> BatchBSD:
        """Return what all heads together add to the residual stream."""
        return tensor.leave(self._product("bshv,hvd->bsd", o_bshv, self.w_out_hvd))

    def _product(self, subscripts: str, x: Array, w: nnx.Param) -> Array:
        return jnp.einsum(subscripts, x, w[...].astype(self.dtype))

    def _split(self, entry: Array) -> tuple[Array, Array]:
        """[..., r + p] -> latent vectors [..., r] and rotated keys [..., p]."""
        rank = self.config.latent.kv_rank
        return entry[..., :rank], entry[..., rank:]
