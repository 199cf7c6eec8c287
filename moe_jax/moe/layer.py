"""A Mixture-of-Experts layer: router -> exchange (experts inside) -> combine, + shared experts.

Runs inside `on_device_shards`: its tokens are one device's, for one stream.
"""

from dataclasses import dataclass
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array

from moe_jax.config.schema import ModelConfig, PrecisionConfig
from moe_jax.moe.balance import BalanceSums, balance_sums
from moe_jax.moe.exchange import Exchange, ExchangeStats, Routing
from moe_jax.moe.experts import Experts
from moe_jax.moe.router import Router
from moe_jax.nn.mlp import Mlp
from moe_jax.shapes import BatchBSD
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
                d_ff=model.moe.shared_experts * model.moe.d_ff,
                activation=model.moe.activation,
                bias=model.moe.bias,
                rngs=rngs,
            )
        self.config = model.moe

    def __call__(
        self, x_bsd: BatchBSD, exchange: Exchange, tensor: TensorAxis = ONE
    ) -> tuple[BatchBSD, MoeStats]:
        routed = self.router(_flat(x_bsd))
        if exchange.spec.transport == "local":
            y_bsd, exchange_stats = self._in_place(x_bsd, routed.routing, exchange, tensor)
        else:
            experts = partial(self.experts, tensor=tensor)
            y_td, exchange_stats = exchange(_flat(x_bsd), routed.routing, experts)
            y_bsd = y_td.reshape(x_bsd.shape)
        if self.config.shared_experts:
            y_bsd = y_bsd + self.shared(x_bsd, tensor)
        balance = balance_sums(routed, x_bsd.shape[0], self.config, tensor)
        return y_bsd, MoeStats(balance, exchange_stats)

    def _in_place(
        self, x_bsd: BatchBSD, routing: Routing, exchange: Exchange, tensor: TensorAxis
    ) -> tuple[BatchBSD, ExchangeStats]:
        """Serves the tokens of the whole tensor axis, each device with its part of every expert.

        Tokens cross the axis once each way, as in a dense MLP, instead of a row per choice.
        """
        batch, length, _ = x_bsd.shape
        x_bsd = tensor.enter(x_bsd)
        routing = jax.tree.map(lambda a: _flat(tensor.enter(a.reshape(batch, length, -1))), routing)
        partial_td, stats = exchange(
            _flat(x_bsd), routing, partial(self.experts, tensor=tensor, partial=True)
        )
        # What the devices of the axis did together counts once.
        stats = jax.tree.map(lambda count: count / tensor.token_shards, stats)
        return tensor.leave(partial_td.reshape(x_bsd.shape)), stats


def _flat(x_bsd: Array) -> Array:
    """[batch, seq, d] -> [tokens, d]."""
    return x_bsd.reshape(-1, x_bsd.shape[-1])
