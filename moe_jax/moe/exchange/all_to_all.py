"""Tokens travel to the devices of their experts and back: two fixed-size all-to-alls per round."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Int

from moe_jax.axes import EXPERT, TENSOR
from moe_jax.moe.exchange.at_experts import AtExperts
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsFn,
    Message,
    Routing,
    Transport,
    capacity,
)
from moe_jax.moe.exchange.hop import Hop, distinct_groups, numbers_beside
from moe_jax.moe.exchange.stats import exchange_stats
from moe_jax.shapes import TokensTD
from moe_jax.sharding.tensor import ONE, TensorAxis


@dataclass(frozen=True)
class AllToAll(Transport):
    """Each device computes its own experts (l = e / devices), on tokens from everywhere."""

    name = "all_to_all"

    def arrivals(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the places for tokens of all sources."""
        return spec.devices * _capacity(spec, tokens, top_k)

    def choices_per_arrival(self, spec: ExchangeSpec, top_k: int) -> float:
        """Return the choices that a token has at a device which it visits."""
        return top_k / _visits(spec, top_k)

    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return one all-to-all of all rows, with their choices."""
        numbers = numbers_beside(top_k, spec.experts_per_device)
        return (Message("all-to-all", self.arrivals(spec, tokens, top_k), spec.devices, numbers),)

    def __call__(
        self,
        params: Any,
        x_td: TokensTD,
        routing: Routing,
        experts_fn: ExpertsFn,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[TokensTD, ExchangeStats]:
        """Return y_td and counts; tokens cross the tensor axis at the experts."""
        tokens, top_k = routing.experts_tk.shape
        hop = Hop(
            groups=spec.devices,
            experts=spec.experts_per_device,
            move=_to_devices,
            agree=partial(_agree, axes=(EXPERT, TENSOR) if tensor.size > 1 else (EXPERT,)),
            rows=_capacity(spec, tokens, top_k),
            round_fraction=spec.round_fraction,
            overflow=spec.overflow,
        )
        serve = AtExperts(experts_fn, spec, tensor)
        y_td, counts = hop(params, x_td, routing, serve)
        return y_td, exchange_stats(routing, spec, counts)


def _visits(spec: ExchangeSpec, top_k: int) -> float:
    """Return the devices that a token visits in the mean."""
    return distinct_groups(top_k, spec.num_experts, spec.devices)


def _capacity(spec: ExchangeSpec, tokens: int, top_k: int) -> int:
    """Return the tokens that a device sends to one other in the main round."""
    visits = _visits(spec, top_k)
    return capacity(tokens, visits, spec.devices, spec.capacity_factor, spec.devices)


def _to_devices(rows: Array) -> Array:
    """[devices * c, ...] by destination becomes [devices * c, ...] by source, and back again."""
    return jax.lax.all_to_all(rows, EXPERT, 0, 0, tiled=True)


def _agree(rounds: Int[Array, ""], axes: tuple[str, ...]) -> Int[Array, ""]:
    return jax.lax.pmax(rounds, axes)
