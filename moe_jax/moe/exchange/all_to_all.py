"""Rows travel to their experts' devices and back: two fixed-size all-to-alls per round."""

from dataclasses import dataclass
from functools import partial

import jax

from moe_jax.axes import EXPERT
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsOfDevice,
    Message,
    Routing,
    Transport,
    capacity,
)
from moe_jax.moe.exchange.rounds import run_by_spec
from moe_jax.moe.exchange.stats import exchange_stats
from moe_jax.moe.exchange.wire import Wire, agreement
from moe_jax.shapes import BatchBSD
from moe_jax.sharding.tensor import ONE, TensorAxis


@dataclass(frozen=True)
class AllToAll(Transport):
    """Each device computes its own experts (l = e / devices), on rows from everywhere."""

    name = "all_to_all"

    def queues(self, spec: ExchangeSpec) -> int:
        """Return the number of all experts: a device sends rows to each."""
        return spec.num_experts

    def capacity(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the rows that a device sends to one expert."""
        return capacity(tokens, top_k, spec.num_experts, spec.capacity_factor, spec.devices)

    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return one all-to-all of all rows."""
        return (Message("all-to-all", self.rows_per_round(spec, tokens, top_k)),)

    def __call__(
        self,
        x_bsd: BatchBSD,
        routing: Routing,
        experts: ExpertsOfDevice,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[BatchBSD, ExchangeStats]:
        """Return y_bsd and counts; rows cross the tensor axis at the experts."""
        combined = run_by_spec(
            x_bsd.reshape(-1, x_bsd.shape[-1]),
            routing,
            partial(experts, tensor=tensor),
            _tiles(tensor),
            spec,
        )
        return combined.y_td.reshape(x_bsd.shape), exchange_stats(routing, combined, spec)


def _tiles(tensor: TensorAxis) -> Wire:
    """[e, c, ...] is [devices * l, c, ...]: device-major, so tiles split on 0 and join on 1."""
    return Wire(
        to_experts=lambda rows: jax.lax.all_to_all(rows, EXPERT, 0, 1, tiled=True),
        to_sources=lambda rows: jax.lax.all_to_all(rows, EXPERT, 1, 0, tiled=True),
        agree=agreement((EXPERT,), tensor.size),
    )
