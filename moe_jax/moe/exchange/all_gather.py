"""Every device of the expert group sees all tokens, computes its experts, and the sums return.

Sends each token to every device once instead of to k experts: fewer, larger messages, which wins
for decoding and tiny batches. Rounds are decided per device (and its tensor axis), since no
message of the exchange depends on them.
"""

import dataclasses

import jax

from moe_jax.axes import EXPERT
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsFn,
    Routing,
    capacity,
)
from moe_jax.moe.exchange.local import STAY
from moe_jax.moe.exchange.rounds import serve
from moe_jax.moe.exchange.stats import exchange_stats
from moe_jax.moe.exchange.wire import agreement
from moe_jax.shapes import ChoicesTK, TokensTD


def all_gather(
    x_td: TokensTD, routing: Routing, experts_fn: ExpertsFn, spec: ExchangeSpec
) -> tuple[TokensTD, ExchangeStats]:
    """The contract with `experts_fn` holding this device's experts (l = e / devices)."""
    everyone = Routing(_own_experts(_gather(routing.experts_tk), spec), _gather(routing.weights_tk))
    tokens, top_k = everyone.experts_tk.shape
    served = serve(
        _gather(x_td),
        everyone,
        experts_fn,
        dataclasses.replace(STAY, agree=agreement((), spec.tensor)),
        num_experts=spec.experts_per_device,
        capacity=capacity(tokens, top_k, spec.num_experts, spec.capacity_factor),
        overflow=spec.overflow,
    )
    y_td = jax.lax.psum_scatter(served.y_td, EXPERT, scatter_dimension=0, tiled=True)
    return y_td, exchange_stats(routing, served, spec)


def _gather(x: jax.Array) -> jax.Array:
    return jax.lax.all_gather(x, EXPERT, axis=0, tiled=True)


def _own_experts(experts_tk: ChoicesTK, spec: ExchangeSpec) -> ChoicesTK:
    """Renumbers this device's experts from 0; all others become one past the last."""
    count = spec.experts_per_device
    own_tk = experts_tk - jax.lax.axis_index(EXPERT) * count
    outside = (own_tk < 0) | (own_tk >= count)
    return jax.numpy.where(outside, count, own_tk)
