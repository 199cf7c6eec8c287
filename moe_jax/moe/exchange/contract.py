"""The exchange's contract: what goes in, what comes out, what every transport must honour.

    exchange(params, x_td, routing, experts_fn, tensor) -> (y_td, ExchangeStats)

runs inside `sharding.spmd.on_device_shards`, once per stream, on one device's tokens:

    y_t = sum_k weights_tk * expert[experts_tk](x_t)

for all tokens (`overflow="rounds"`) or for those within capacity (`"drop"`). Transports differ in
what they send, never in this value. A new one is a `Transport` in a file of its own, listed in
`exchange/__init__.py` and named in the config's schema: nothing outside asks for it by name.
"""

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from moe_jax.config.schema import TransportName
from moe_jax.moe.exchange.beside import spare_rows
from moe_jax.shapes import ChoicesTK, TokensTD, WeightsTK
from moe_jax.sharding.tensor import ONE, TensorAxis

Overflow = Literal["rounds", "drop"]


@runtime_checkable
class ExpertsFn(Protocol):
    """The MLPs of one device's experts, in two halves between which backward finds its values.

    Closes over no arrays: parameters come in. Each expert's hidden size may be split over the
    tensor axis; results are then partial sums.
    """

    def up(
        self, params: Any, rows_rd: Float[Array, "r d"], sizes_l: Int[Array, " l"] | None
    ) -> Any:
        """Return what `down` takes.

        Args:
            params: of the experts.
            rows_rd: rows, sorted by expert.
            sizes_l: rows of each expert; what lies beyond their sum is nobody's and has weight 0.
                None: all are the only expert's.
        """
        ...

    def down(
        self,
        params: Any,
        hidden: Any,
        sizes_l: Int[Array, " l"] | None,
        weights_r: Float[Array, " r"],
    ) -> Float[Array, "r d"]:
        """Return weights_r * expert(row), weights in float32."""
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

    #: Choices that this device made of each expert.
    load_e: Float[Array, " e"]
    #: Choices that an expert served, and places for travelling tokens that stayed empty.
    rows_sent: Float[Array, ""]
    rows_padded: Float[Array, ""]
    #: Choices that no expert served (0 under `overflow="rounds"`).
    rows_dropped: Float[Array, ""]
    #: Further rounds after the main one.
    overflow_rounds: Float[Array, ""]
    #: Rows that travelled to another device, and to another host: one for all choices there.
    rows_off_device: Float[Array, ""]
    rows_off_host: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExchangeCounts:
    """What an exchange counts on one device; float32.

    Attributes:
        sent_g: tokens for each group, whether served or not; none where tokens stay.
        dropped: choices that nobody served, here or at the experts of this device.
        rounds: further rounds, likewise.
        padded: places for tokens that stayed empty.
    """

    sent_g: Float[Array, " g"]
    dropped: Float[Array, ""]
    rounds: Float[Array, ""]
    padded: Float[Array, ""]


@dataclass(frozen=True)
class ExchangeSpec:
    """Everything static about an exchange."""

    transport: "Transport"
    num_experts: int
    #: Size of the mesh's expert axis, over which experts are spread in contiguous groups.
    devices: int
    capacity_factor: float
    overflow: Overflow
    #: Size of a further round, of the main round's.
    round_fraction: float
    #: Host of each device along the flattened (pipe, data, fsdp, expert) axes; empty where rows are
    #: only counted.
    hosts: tuple[int, ...] = ()

    @property
    def experts_per_device(self) -> int:
        """How many experts a device stores."""
        return self.num_experts // self.devices

    @property
    def experts_here(self) -> int:
        """How many experts a device computes."""
        return self.num_experts if self.transport.gathers_experts else self.experts_per_device


@dataclass(frozen=True)
class Message:
    """One collective of a trip to the experts, over the expert axis."""

    kind: Literal["all-to-all", "all-gather"]
    #: Tokens, a row each, on one device: those that it puts into an all-to-all, or all that an
    #: all-gather brings together there.
    rows: int
    #: Parts that the rows lie in, and float32 numbers of each token in spare rows of its part.
    blocks: int = 1
    numbers: int = 0

    def rows_with_numbers(self, width: int, dtype: DTypeLike) -> int:
        """Return all rows, of `width` values of a dtype."""
        places = self.rows // self.blocks
        return self.rows + self.blocks * spare_rows(places, self.numbers, width, dtype)


class Transport(abc.ABC):
    """A way for tokens and experts to meet. Holds nothing: what it works on is `ExchangeSpec`.

    Its methods count for one device and stream; `tokens` are those that the device routes.
    """

    name: ClassVar[TransportName]
    #: Whether every device computes all experts, whose weights it gathers over the expert axis.
    gathers_experts: ClassVar[bool] = False

    @abc.abstractmethod
    def arrivals(self, spec: ExchangeSpec, tokens: int, top_k: int) -> int:
        """Return the places for tokens at a device's experts in the main round.

        Each device of a tensor axis brings as many: its experts serve those of all.
        """

    @abc.abstractmethod
    def choices_per_arrival(self, spec: ExchangeSpec, top_k: int) -> float:
        """Return how many of its choices a token has where it arrives, in the mean."""

    @abc.abstractmethod
    def messages(self, spec: ExchangeSpec, tokens: int, top_k: int) -> tuple[Message, ...]:
        """Return what a round sends on the way to the experts; the way back is its transpose."""

    def expert_rows(self, spec: ExchangeSpec, arrivals: int, top_k: int) -> int:
        """Return the rows of the experts' main round, empty ones included.

        Args:
            spec: of this transport.
            arrivals: places for tokens at the experts, of the whole tensor axis.
            top_k: experts that each token visits, of which it has some here.
        """
        most = arrivals * min(top_k, spec.experts_here)
        return min(whole_rows(self.choices_per_arrival(spec, top_k) * arrivals), most)

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
        params: Any,
        x_td: TokensTD,
        routing: Routing,
        experts_fn: ExpertsFn,
        spec: ExchangeSpec,
        tensor: TensorAxis = ONE,
    ) -> tuple[TokensTD, ExchangeStats]:
        """Return y_td and this device's counts, by the contract above.

        Args:
            params: of the experts that the transport computes on this device.
            x_td: this device's tokens of one stream.
            routing: their choices.
            experts_fn: what the experts compute.
            spec: of this transport.
            tensor: the tensor axis, as layers see it.
        """


def capacity(
    tokens: int, per_token: float | int, groups: int, factor: float, sources: int = 1
) -> int:
    """Return places per group and source in one round: factor x mean load, rounded up.

    A group's places from all `sources` together are a multiple of 8, which tensor cores want.
    Never more than `tokens`, since a token visits a group at most once.

    Args:
        tokens: of one source.
        per_token: groups that each token visits, in the mean.
        groups: over which visits spread.
        factor: of the mean load, tokens * per_token / groups.
        sources: devices that send tokens to a group.
    """
    unit = 8 // math.gcd(8, sources)
    rows = math.ceil(round(factor * tokens * per_token / groups, 6))
    return min(unit * math.ceil(rows / unit), tokens)


def whole_rows(rows: float | int, unit: int = 8) -> int:
    """Return `rows` rounded up to a multiple of `unit`, at least one unit."""
    return unit * max(math.ceil(round(rows / unit, 6)), 1)


def load_per_expert(experts_tk: ChoicesTK, num_experts: int) -> Int[Array, " e"]:
    """Return how many rows go to each expert, in O(rows)."""
    return jnp.zeros(num_experts, jnp.int32).at[experts_tk.reshape(-1)].add(1, mode="drop")
