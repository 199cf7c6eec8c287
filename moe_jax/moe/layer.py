"""A Mixture-of-Experts layer: router -> exchange (experts inside) -> combine, + shared experts.

Runs inside `on_device_shards`: its tokens are one device's, for one stream.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool

from moe_jax.config.model_schema import Activation, ExpertActivation, ModelConfig, MoeConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.moe.balance import BalanceSums, balance_sums
from moe_jax.moe.exchange import Exchange, ExchangeStats, Routing
from moe_jax.moe.experts import Experts, split
from moe_jax.moe.grouped import Implementation
from moe_jax.moe.router import Router
from moe_jax.nn.mlp import Mlp
from moe_jax.nn.param import weight
from moe_jax.shapes import BatchBSD, MaskBS
from moe_jax.sharding.tensor import ONE, TensorAxis


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MoeStats:
    """What a layer counted; adds up over streams and devices."""

    balance: BalanceSums
    exchange: ExchangeStats


class MoeLayer(nnx.Module):
    """y = sum_k w_k expert_k(x) (+ shared(x))."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        self.router = Router(model, precision, rngs=rngs)
        self.experts = Experts(model, precision, rngs=rngs)
        if model.moe.shared_experts:
            self.shared = Mlp(
                model,
                precision,
                d_ff=shared_width(model.moe),
                activation=_unclamped(model.moe.activation),
                bias=model.moe.bias,
                rngs=rngs,
            )
            if model.moe.shared_gate == "sigmoid":
                shape = (model.d_model,)
                self.w_shared_gate_d = weight(rngs, shape, ("embed",), precision, model.init_std)
        self.config = model.moe

    def __call__(
        self,
        x_bsd: BatchBSD,
        exchange: Exchange,
        tensor: TensorAxis = ONE,
        valid_bs: MaskBS | None = None,
        grouped: Implementation = "auto",
    ) -> tuple[BatchBSD, MoeStats]:
        """Return the layer's output, and its counts.

        Args:
            x_bsd: one device's tokens of one stream.
            exchange: how tokens and experts meet.
            tensor: over which experts, and perhaps tokens, are split.
            valid_bs: tokens that matter: the others take the experts in turn, with weight 0, so
                that padding, whose tokens are all alike, does not overfill a few. None: all.
            grouped: what computes grouped matmuls; "auto": as fits the default device.
        """
        x_td = _flat(x_bsd)
        routed = self.router(x_td)
        if valid_bs is not None:
            spread = _spread(routed.routing, valid_bs.reshape(-1), self.config.num_experts)
            routed = dataclasses.replace(routed, routing=spread)
        params, experts_fn = split(self.experts, tensor, grouped)
        y_td, exchange_stats = exchange(params, x_td, routed.routing, experts_fn, tensor)
        y_bsd = y_td.reshape(x_bsd.shape)
        if self.config.shared_experts:
            y_bsd = y_bsd + self._shared(x_bsd, tensor)
        balance = balance_sums(routed, x_bsd.shape[0], self.config, tensor)
        return y_bsd, MoeStats(balance, exchange_stats)

    def _shared(self, x_bsd: BatchBSD, tensor: TensorAxis) -> BatchBSD:
        y_bsd = self.shared(x_bsd, tensor)
        if self.config.shared_gate == "none":
            return y_bsd
        logit_bs = x_bsd @ self.w_shared_gate_d[...].astype(x_bsd.dtype)
        return y_bsd * jax.nn.sigmoid(logit_bs)[..., None]


def _spread(routing: Routing, valid_t: Bool[Array, " t"], experts: int) -> Routing:
    """Return the routing with invalid tokens on the experts in turn, with weight 0."""
    tokens, top_k = routing.experts_tk.shape
    turns_tk = jnp.arange(tokens * top_k, dtype=jnp.int32).reshape(tokens, top_k) % experts
    valid_t1 = valid_t[:, None]
    return Routing(
        jnp.where(valid_t1, routing.experts_tk, turns_tk),
        jnp.where(valid_t1, routing.weights_tk, 0),
    )


def shared_width(moe: MoeConfig) -> int:
    """Return the hidden size of the one MLP that computes all shared experts."""
    return moe.shared_experts * (moe.shared_d_ff or moe.d_ff)


def _unclamped(activation: ExpertActivation) -> Activation:
    assert activation != "swiglu_clamped", "the config's rules refuse shared experts with it"
    return activation


def _flat(x_bsd: Array) -> Array:
    """[batch, seq, d] -> [tokens, d]."""
    return x_bsd.reshape(-1, x_bsd.shape[-1])
