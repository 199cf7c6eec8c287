"""The exchange's contract: what goes in, what comes out, what every transport must honour.

    exchange(x_td, routing, experts_fn) -> (y_td, ExchangeStats)

runs inside `sharding.spmd.on_device_shards`, once per stream, on one device's tokens:

    y_t = sum_k weights_tk * expert[experts_tk](x_t)

for all tokens (`overflow="rounds"`) or for those within capacity (`"drop"`). Transports differ in
what they send, never in this value. `experts_fn` maps rows [l, r, d] of the l experts that the
transport computes on this device to rows of the same shape; it must treat rows independently. It
may use collectives over the tensor axis, whose devices therefore run the same rounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.config.schema import ExchangeConfig
from moe_jax.errors import UserError
from moe_jax.shapes import ChoicesTK, RowsLRD, WeightsTK

TransportName = Literal["local", "all_gather", "all_to_all"]
ExpertsFn = Callable[[RowsLRD], RowsLRD]


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

    transport: TransportName
    num_experts: int
    #: Size of the mesh's expert axis, over which experts are spread in contiguous groups.
    devices: int
    capacity_factor: float
    overflow: Literal["rounds", "drop"]
    #: Host of each device along the flattened (pipe, data, fsdp, expert) axes.
    hosts: tuple[int, ...]
    #: Size of the mesh's tensor axis, over which `experts_fn` splits each expert.
    tensor: int = 1

    @property
    def experts_per_device(self) -> int:
        return self.num_experts // self.devices


def capacity(tokens: int, top_k: int, experts: int, factor: float, sources: int = 1) -> int:
    """Return rows per expert and source in one round: factor x mean load, rounded up.

    An expert's rows from all `sources` together are a multiple of 8, which tensor cores want.
    Never more than `tokens`, since a token visits an expert at most once.
    """
    unit = 8 // math.gcd(8, sources)
    rows = math.ceil(factor * tokens * top_k / experts)
    return min(unit * math.ceil(rows / unit), tokens)


def make_spec(
    config: ExchangeConfig,
    transport: TransportName,
    num_experts: int,
    devices: int,
    hosts: tuple[int, ...],
    tensor: int = 1,
) -> ExchangeSpec:
    """Return the spec of a validated config on an expert axis of `devices`."""
    if num_experts % devices:
        raise UserError(
            f"num_experts ({num_experts}) must be a multiple of the expert axis ({devices})"
        )
    if transport != "local" and devices == 1:
        # One device has nobody to exchange with: the collectives would be copies.
        transport = "local"
    return ExchangeSpec(
        transport, num_experts, devices, config.capacity_factor, config.overflow, hosts, tensor
    )


def load_per_expert(experts_tk: ChoicesTK, num_experts: int) -> Int[Array, " e"]:
    """Return how many rows go to each expert, in O(rows)."""
    return jnp.zeros(num_experts, jnp.int32).at[experts_tk.reshape(-1)].add(1, mode="drop")
