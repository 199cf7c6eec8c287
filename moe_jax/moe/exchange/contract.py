"""The exchange's contract: what goes in, what comes out, what every transport must honour.

    exchange(x_bsd, routing, experts, tensor) -> (y_bsd, ExchangeStats)

runs inside `sharding.spmd.on_device_shards`, once per stream, on one device's tokens:

    y_t = sum_k weights_tk * expert[experts_tk](x_t)

for all tokens (`overflow="rounds"`) or for those within capacity (`"drop"`). Transports differ in
what they send, never in this value. A new one is a `Transport` in a file of its own, listed in
`exchange/__init__.py` and named in the config's schema: nothing outside asks for it by name.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.config.schema import TransportName
from moe_jax.shapes import BatchBSD, ChoicesTK, RowsLRD, WeightsTK
from moe_jax.sharding.tensor import ONE, TensorAxis

#: Rows of this device's experts to rows of the same shape, each row by itself.
ExpertsFn = Callable[[RowsLRD], RowsLRD]


@runtime_checkable
class ExpertsOfDevice(Protocol):
    """The l experts that a device computes, each split over the tensor axis."""

    def __call__(
        self, rows_lrd: RowsLRD, tensor: TensorAxis = ONE, *, partial: bool = False
    ) -> RowsLRD:
        """Return the experts' outputs; rows must not depend on each other.

        It may use collectives over the tensor axis, whose devices therefore run the same rounds.

        Args:
            rows_lrd: r rows for each of l experts.
            tensor: over which each expert's hidden size is split.
            partial: rows are the same on the whole axis, and the caller sums up the outputs.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routing:
    """Who goes where: the chosen experts of each token and their combine weights (float32)."""

    experts_tk: ChoicesTK
    weights_tk: WeightsTK


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExchangeStats:
    """Counts of one exchange on one device, float32; they add up over streams and devices."""

    #: Rows this device routed to each expert.
    load_e: Float[Array, " e"]
    #: Rows that were served by an expert, and rows that nobody's token filled.
    rows_sent: Float[Array, ""]
    rows_padded: Float[Array, ""]
    #: Rows that no expert served (0 under `overflow="rounds"`).
    rows_dropped: Float[Array, ""]
    #: Further rounds after the main one.
    overflow_rounds: Float[Array, ""]
    #: Rows whose expert lives on another device, and on another host.
    rows_off_device: Float[Array, ""]
    rows_off_host: Float[Array, ""]


@dataclass(frozen=True)
class ExchangeSpec:
    """Everything static about an exchange."""

    transport: "Transport"
    num_experts: int
    #: Size of the mesh's expert axis, over which experts are spread in contiguous groups.
    devices: int
    capacity_factor: float
    overflow: Literal["rounds", "drop"]
    #: Host of each device along the flattened (pipe, data, fsdp, expert) axes; empty where rows are
    #: only counted.
    hosts: tuple[int, ...] = ()

    @property
    def experts_per_device(self) -> int:
        """How many experts a device stores."""
        return self.num_experts // self.devices


@dataclass(frozen=True)
class Message:
    """One collective of a trip to the experts, over the expert axis."""

    kind: Literal["all-to-all", "all-gather"]
    #: Rows of d_model on one device: those that it puts into an all-to-all, or all that an
    #: all-gather brings together there.
    rows: int


class Transport(abc.ABC):
    """A way for tokens and experts to meet. Holds nothing: what it works on is `ExchangeSpec`.

    Its methods count for one device and stream: `tokens` are those that the device routes, of the
    whole tensor axis where `whole_tensor_axis` says so.
    """

    name: ClassVar[TransportName]
    #: Whether every device computes all experts, whose weights it gathers over the expert axis.
    gathers_experts: ClassVar[bool] = False
    #: Whether tokens of the tensor axis come together before they are routed to rows.
    whole_tensor_axis: ClassVar[bool] = False

    @abc.abstractmethod
    def queues(self, spec: ExchangeSpec) -> int:
        """Return for how many experts a device fills rows."""

    @abc.abstractmethod
    def capacity(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the rows of one queue in one round."""

    @abc.abstractmethod
    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return what a round sends on the way to the experts; the way back is its transpose."""

    def rows_per_round(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the rows that a device fills in one round, empty ones included."""
        return self.queues(spec) * self.capacity(spec, tokens, top_k)

    def rows_sent(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the rows of d_model that leave a device in one round, both ways together.

        Of an all-to-all all but its own part, of an all-gather the parts that a ring passes on.

        Args:
            spec: of this transport.
            tokens: that the device routes.
            top_k: experts that each token visits.
        """
        others = spec.devices - 1
        messages = self.messages(spec, tokens, top_k)
        return sum(2 * others * message.rows // spec.devices for message in messages)

    @abc.abstractmethod
    def __call__(
        self,
        x_bsd: BatchBSD,
        routing: Routing,
        experts: ExpertsOfDevice,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[BatchBSD, ExchangeStats]:
        """Return y_bsd and this device's counts, by the contract above.

        Args:
            x_bsd: this device's tokens of one stream.
            routing: their choices [t, k], with t = b * s in order.
            experts: those that the transport computes on this device.
            spec: of this transport.
            tensor: the tensor axis, as layers see it.
        """


def capacity(tokens: int, top_k: int, experts: int, factor: float, sources: int = 1) -> int:
    """Return rows per expert and source in one round: factor x mean load, rounded up.

    An expert's rows from all `sources` together are a multiple of 8, which tensor cores want.
    Never more than `tokens`, since a token visits an expert at most once.

    Args:
        tokens: of one source.
        top_k: experts that each token visits.
        experts: over which choices spread, e.
        factor: of the mean load, tokens * top_k / e.
        sources: devices that send rows to an expert.
    """
    unit = 8 // math.gcd(8, sources)
    rows = math.ceil(factor * tokens * top_k / experts)
    return min(unit * math.ceil(rows / unit), tokens)


def load_per_expert(experts_tk: ChoicesTK, num_experts: int) -> Int[Array, " e"]:
    """Return how many rows go to each expert, in O(rows)."""
    return jnp.zeros(num_experts, jnp.int32).at[experts_tk.reshape(-1)].add(1, mode="drop")
