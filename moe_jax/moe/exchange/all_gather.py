"""Every device of the expert group sees all tokens, computes its experts, and the sums return.

Sends each token to every device once instead of to k experts: fewer, larger messages, which wins
for decoding and tiny batches. Rounds are decided per device (and its tensor axis), since no
message of the exchange depends on them.
"""

import dataclasses
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
from moe_jax.moe.exchange.local import STAY
from moe_jax.moe.exchange.rounds import run_by_spec
from moe_jax.moe.exchange.stats import exchange_stats
from moe_jax.moe.exchange.wire import agreement
from moe_jax.shapes import BatchBSD, ChoicesTK
from moe_jax.sharding.tensor import ONE, TensorAxis


@dataclass(frozen=True)
class AllGather(Transport):
    """Each device computes its own experts (l = e / devices), on the tokens of all."""

    name = "all_gather"

    def queues(self, spec: ExchangeSpec) -> int:
        """Return the number of experts that live here."""
        return spec.experts_per_device

    def capacity(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the rows of one expert, of everybody's tokens."""
        return capacity(tokens * spec.devices, top_k, spec.num_experts, spec.capacity_factor)

    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return one all-gather of tokens; the sums return by a reduce-scatter."""
        return (Message("all-gather", tokens * spec.devices),)

    def __call__(
        self,
        x_bsd: BatchBSD,
        routing: Routing,
        experts: ExpertsOfDevice,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[BatchBSD, ExchangeStats]:
        """Return y_bsd and counts; rows cross the tensor axis at the experts."""
        everyone = Routing(
            _own_experts(_gather(routing.experts_tk), spec), _gather(routing.weights_tk)
        )
        combined = run_by_spec(
            _gather(x_bsd.reshape(-1, x_bsd.shape[-1])),
            everyone,
            partial(experts, tensor=tensor),
            dataclasses.replace(STAY, agree=agreement((), tensor.size)),
            spec,
            tokens=routing.experts_tk.shape[0],
        )
        y_td = jax.lax.psum_scatter(combined.y_td, EXPERT, scatter_dimension=0, tiled=True)
        return y_td.reshape(x_bsd.shape), exchange_stats(routing, combined, spec)


def _gather(x: jax.Array) -> jax.Array:
    return jax.lax.all_gather(x, EXPERT, axis=0, tiled=True)


def _own_experts(experts_tk: ChoicesTK, spec: ExchangeSpec) -> ChoicesTK:
    """Renumber this device's experts from 0; all others become one past the last."""
    count = spec.experts_per_device
    own_tk = experts_tk - jax.lax.axis_index(EXPERT) * count
    outside = (own_tk < 0) | (own_tk >= count)
    return jax.numpy.where(outside, count, own_tk)
