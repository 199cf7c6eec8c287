"""Every device of the expert group sees all tokens, serves its experts, and the sums return.

Sends each token to every device once: fewer, larger messages, which wins for decoding and tiny
batches. Rounds are decided per device (and its tensor axis), since no message of the exchange
depends on them.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax

from moe_jax.axes import EXPERT
from moe_jax.moe.exchange.at_experts import AtExperts
from moe_jax.moe.exchange.constants import where
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsFn,
    Message,
    Routing,
    Transport,
)
from moe_jax.moe.exchange.stats import exchange_stats, stayed
from moe_jax.shapes import TokensTD
from moe_jax.sharding.tensor import ONE, TensorAxis


@dataclass(frozen=True)
class AllGather(Transport):
    """Each device computes its own experts (l = e / devices), on the tokens of all."""

    name = "all_gather"

    def arrivals(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return everybody's tokens."""
        return tokens * spec.devices

    def choices_per_arrival(self, spec: ExchangeSpec, top_k: int) -> float:
        """Return the device's part of a token's choices."""
        return top_k / spec.devices

    def expert_rows(self, spec: ExchangeSpec, arrivals: int, top_k: int) -> int:
        """Return the mean load times the capacity factor: places are all taken."""
        most = arrivals * min(top_k, spec.experts_here)
        roomy = math.ceil(spec.capacity_factor * arrivals)
        return min(super().expert_rows(spec, roomy, top_k), most)

    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return one all-gather of tokens; the sums return by a reduce-scatter."""
        return (Message("all-gather", tokens * spec.devices),)

    def __call__(
        self,
        params: Any,
        x_td: TokensTD,
        routing: Routing,
        experts_fn: ExpertsFn,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[TokensTD, ExchangeStats]:
        """Return y_td and counts."""
        everyone = Routing(_gather(routing.experts_tk), _gather(routing.weights_tk))
        serve = AtExperts(experts_fn, spec, tensor)
        y_td, counts = serve(params, _gather(x_td), _of_this_device(everyone, spec))
        y_td = jax.lax.psum_scatter(y_td, EXPERT, scatter_dimension=0, tiled=True)
        return y_td, exchange_stats(routing, spec, stayed(counts))


def _gather(x: jax.Array) -> jax.Array:
    return jax.lax.all_gather(x, EXPERT, axis=0, tiled=True)


def _of_this_device(routing: Routing, spec: ExchangeSpec) -> Routing:
    """Return the routing with this device's experts from 0; others are one past the last."""
    count = spec.experts_per_device
    own_tk = routing.experts_tk - jax.lax.axis_index(EXPERT) * count
    inside_tk = (own_tk >= 0) & (own_tk < count)
    return Routing(where(inside_tk, own_tk, count), where(inside_tk, routing.weights_tk, 0))
