"""Rows travel to their experts' devices and back: two fixed-size all-to-alls per round."""

import jax

from moe_jax.axes import EXPERT
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsFn,
    Routing,
    capacity,
)
from moe_jax.moe.exchange.rounds import serve
from moe_jax.moe.exchange.stats import exchange_stats
from moe_jax.moe.exchange.wire import Wire, agreement
from moe_jax.shapes import TokensTD


def _tiles(spec: ExchangeSpec) -> Wire:
    """[e, c, ...] is [devices * l, c, ...]: device-major, so tiles split on 0 and join on 1."""
    return Wire(
        to_experts=lambda rows: jax.lax.all_to_all(rows, EXPERT, 0, 1, tiled=True),
        to_sources=lambda rows: jax.lax.all_to_all(rows, EXPERT, 1, 0, tiled=True),
        agree=agreement((EXPERT,), spec.tensor),
    )


def all_to_all(
    x_td: TokensTD, routing: Routing, experts_fn: ExpertsFn, spec: ExchangeSpec
) -> tuple[TokensTD, ExchangeStats]:
    """The contract with `experts_fn` holding this device's experts (l = e / devices)."""
    tokens, top_k = routing.experts_tk.shape
    served = serve(
        x_td,
        routing,
        experts_fn,
        _tiles(spec),
        num_experts=spec.num_experts,
        capacity=capacity(tokens, top_k, spec.num_experts, spec.capacity_factor, spec.devices),
        overflow=spec.overflow,
    )
    return served.y_td, exchange_stats(routing, served, spec)
