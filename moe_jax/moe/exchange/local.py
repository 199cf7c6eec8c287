"""Every expert on every device: nothing is sent, tokens only change order, there is one round."""

from dataclasses import dataclass
from typing import Any

from moe_jax.moe.exchange.at_experts import AtExperts
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
class Local(Transport):
    """Each device computes all experts (l = e), on the tokens of its tensor axis."""

    name = "local"
    gathers_experts = True

    def arrivals(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the tokens: they are there already."""
        return tokens

    def choices_per_arrival(self, spec: ExchangeSpec, top_k: int) -> float:
        """Return all of them, so that there are never further rounds."""
        return float(top_k)

    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return none."""
        return ()

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
        y_td, counts = AtExperts(experts_fn, spec, tensor)(params, x_td, routing)
        return y_td, exchange_stats(routing, spec, stayed(counts))
