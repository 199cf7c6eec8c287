"""How little can cross: bytes that any exchange must move, for routing that is uniform.

A closed form, so *modelled*. What a program moves is counted in `compiled/link_bytes.py`; how long
it takes is `hardware/network.py`.
"""

import math
from dataclasses import dataclass

from moe_jax.axes import EXPERT
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.hardware.network import axis_group
from moe_jax.hardware.topology import Topology
from moe_jax.model.pattern import layer_sequence
from moe_jax.planner.modelled.per_device import Share
from moe_jax.planner.report.figures import Mode

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

#: Trips of a token's row per layer: to its experts and back; backward likewise, for gradients.
TRIPS = {"forward": 2, "decode": 2, "train": 4}


@dataclass(frozen=True)
class Copies:
    """How often one token has to be sent, one way; means over uniform routing."""

    #: To other hosts: once per host that holds one of its experts.
    between_hosts: float
    #: Inside hosts: once per further device that holds one of its experts.
    inside_hosts: float


@dataclass(frozen=True)
class ExchangeBound:
    """The least that one device must send in a step for its tokens to meet their experts."""

    copies: Copies
    inter_host_bytes: float
    intra_host_bytes: float


def copies_per_token(num_experts: int, top_k: int, hosts: int, devices_per_host: int) -> Copies:
    """Return the expected copies of a token that chooses `top_k` of `num_experts` uniformly.

        P(n) = 1 - C(e - e / n, k) / C(e, k)        a given n-th of the experts holds a choice
        between_hosts = (h - 1) P(h)
        inside_hosts  = (g - 1) P(hg) + (h - 1) (g P(hg) - P(h))

    A token crosses to each other host at most once, straight to a device that needs it, and goes
    on to the other devices there that do.

    Args:
        num_experts: e, spread evenly over `hosts` x `devices_per_host` (h x g) devices.
        top_k: k distinct experts.
        hosts: h, of the expert axis.
        devices_per_host: g, of the expert axis.

    Raises:
        UserError: when the experts cannot be spread evenly.
    """
    devices = hosts * devices_per_host
    if num_experts % devices:
        raise UserError(
            f"{num_experts} experts do not spread evenly over {hosts} x {devices_per_host} "
            f"devices: their number must be a multiple of {devices}"
        )

    def chosen(parts: int) -> float:
        rest = num_experts - num_experts // parts
        return 1 - math.comb(rest, top_k) / math.comb(num_experts, top_k)

    host, device = chosen(hosts), chosen(devices)
    inside = (devices_per_host - 1) * device + (hosts - 1) * (devices_per_host * device - host)
    return Copies((hosts - 1) * host, inside)


def exchange_bound(
    config: Config, topology: Topology, mode: Mode = "train", tokens_per_device: float | None = None
) -> ExchangeBound:
    """Return the least bytes that one device sends in one step, by link.

        bytes = trips x copies x tokens x d_model x bytes per value x MoE layers

    Backward sends gradients where forward sent rows; sending rows again to rematerialise them is
    a program's choice and no part of the bound. Tokens are shared by the tensor axis, layers by
    the pipe axis.

    Args:
        config: mesh, model and batch.
        topology: what the mesh runs on.
        mode: "forward", "train", or "decode" (one token per sequence).
        tokens_per_device: by default those of the config's batch.

    Raises:
        UserError: experts do not spread evenly, or the batch does not.
    """
    moe, mesh = config.model.moe, config.mesh
    group = axis_group(mesh, (EXPERT,), topology)
    copies = copies_per_token(moe.num_experts, moe.top_k, group.hosts, group.devices_per_host)
    if tokens_per_device is None:
        tokens_per_device = Share(config, mode).device_tokens
    layers = sum(spec.kind == "moe" for spec in layer_sequence(config.model)) / mesh.pipe
    width = DTYPE_BYTES[config.precision.compute]
    rows = TRIPS[mode] * layers * tokens_per_device * config.model.d_model * width
    return ExchangeBound(copies, rows * copies.between_hosts, rows * copies.inside_hosts)


def inter_host_lower_bound(config: Config, topology: Topology, mode: Mode = "train") -> float:
    """Return the bytes per device and step that must cross hosts; see `exchange_bound`."""
    return exchange_bound(config, topology, mode).inter_host_bytes
