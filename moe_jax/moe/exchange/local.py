"""Every expert on every device: nothing is sent, tokens only change order."""

from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsFn,
    Routing,
    capacity,
)
from moe_jax.moe.exchange.rounds import serve
from moe_jax.moe.exchange.stats import exchange_stats
from moe_jax.moe.exchange.wire import Wire
from moe_jax.shapes import TokensTD

#: Rows are already where their experts are, and nobody else has a say in the rounds.
STAY = Wire(
    to_experts=lambda rows: rows,
    to_sources=lambda rows: rows,
    agree=lambda rounds: rounds,
)


def local(
    x_td: TokensTD, routing: Routing, experts_fn: ExpertsFn, spec: ExchangeSpec
) -> tuple[TokensTD, ExchangeStats]:
    """The contract with `experts_fn` holding all experts (l = e)."""
    tokens, top_k = routing.experts_tk.shape
    served = serve(
        x_td,
        routing,
        experts_fn,
        STAY,
        num_experts=spec.num_experts,
        capacity=capacity(tokens, top_k, spec.num_experts, spec.capacity_factor),
        overflow=spec.overflow,
    )
    return served.y_td, exchange_stats(routing, served, spec)
