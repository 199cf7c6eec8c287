"""A Mixture-of-Experts layer: router -> exchange (experts inside) -> combine, + shared experts.

Runs inside `on_device_shards`: its tokens are one device's, for one stream.
"""

from dataclasses import dataclass
from functools import partial

import jax
from flax import nnx

from moe_jax.config.schema import ModelConfig, PrecisionConfig
from moe_jax.moe.balance import BalanceSums, balance_sums
from moe_jax.moe.exchange import Exchange, ExchangeStats
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
        batch, length, d_model = x_bsd.shape
        x_td = x_bsd.reshape(batch * length, d_model)
        routed = self.router(x_td)
        experts = partial(self.experts, tensor=tensor)
        y_td, exchange_stats = exchange(x_td, routed.routing, experts)
        y_bsd = y_td.reshape(batch, length, d_model)
        if self.config.shared_experts:
            y_bsd = y_bsd + self.shared(x_bsd, tensor)
        balance = balance_sums(routed, batch, self.config, tensor)
        return y_bsd, MoeStats(balance, exchange_stats)
