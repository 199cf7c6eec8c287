"""Every expert on every device: nothing is sent, tokens only change order."""

from dataclasses import dataclass
from functools import partial

import jax
from jaxtyping import Array

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
from moe_jax.moe.exchange.wire import Wire
from moe_jax.shapes import BatchBSD
from moe_jax.sharding.tensor import ONE, TensorAxis

#: Rows are already where their experts are, and nobody else has a say in the rounds.
STAY = Wire(
    to_experts=lambda rows: rows,
    to_sources=lambda rows: rows,
    agree=lambda rounds: rounds,
)


@dataclass(frozen=True)
class Local(Transport):
    """Each device computes all experts (l = e), on the tokens of its tensor axis.

    Tokens cross the tensor axis once each way, as in a dense MLP, instead of a row per choice.
    """

    name = "local"
    gathers_experts = True
    whole_tensor_axis = True

    def queues(self, spec: ExchangeSpec) -> int:
        """Return the number of all experts, each of which is here."""
        return spec.num_experts

    def capacity(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the rows of one expert."""
        return capacity(tokens, top_k, spec.num_experts, spec.capacity_factor)

    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return none."""
        return ()

    def __call__(
        self,
        x_bsd: BatchBSD,
        routing: Routing,
        experts: ExpertsOfDevice,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[BatchBSD, ExchangeStats]:
        """Return y_bsd and counts, each device having computed a part of every expert."""
        batch, length, _ = x_bsd.shape
        x_bsd = tensor.enter(x_bsd)
        routing = jax.tree.map(lambda a: _flat(tensor.enter(a.reshape(batch, length, -1))), routing)
        combined = run_by_spec(
            _flat(x_bsd), routing, partial(experts, tensor=tensor, partial=True), STAY, spec
        )
        stats = exchange_stats(routing, combined, spec)
        # What the devices of the axis did together counts once.
        stats = jax.tree.map(lambda count: count / tensor.token_shards, stats)
        return tensor.leave(combined.y_td.reshape(x_bsd.shape)), stats


def _flat(x_bsd: Array) -> Array:
    """[batch, seq, ...] -> [tokens, ...]."""
    return x_bsd.reshape(-1, x_bsd.shape[-1])
