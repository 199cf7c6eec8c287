"""How long a collective takes: our own alpha-beta model, from links to seconds.

    T = latency of the hops + peers x overhead + bytes on the bottleneck / (efficiency x line rate)

All *modelled*. Rates and latencies are the cluster's (`hardware/clusters.toml`); three constants
below are all that is fitted. XLA's own model of the same collectives is set up in
`planner/compile/target.py`; how much has to travel at all is `planner/modelled/bounds.py`.

Assumptions: every device has its own network adapter, hosts have a non-blocking network between
them, and nothing else uses the links. Collectives other than all-to-all are rings that use all
adapters of a host, as NCCL's are; NVLink SHARP, which speeds up an all-reduce inside a host by up
to 1.3 x (480 against 370 GB/s, github.com/NVIDIA/nccl-tests/issues/212), is left out.

Checked by `tests/planner/test_network.py` against published measurements.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moe_jax.axes import AXES
from moe_jax.config.schema import MeshConfig
from moe_jax.errors import UserError
from moe_jax.hardware.topology import Topology

#: Share of NVLink's line rate that payload reaches: "protocol overhead (~20 %)", NCCL's
#: maintainers, github.com/NVIDIA/nccl-tests/issues/212; DeepEP's tables say 160 of an H800's 200.
NVLINK_EFFICIENCY = 0.8
#: The same for the network: 43.5 and 44.6 of 50 GB/s cross hosts in DeepEP's tables at EP32 and
#: EP64 (58 and 51 there, which also count each token's copy for its own host:
#: github.com/deepseek-ai/DeepEP, docs/legacy.md and tests/test_internode.py).
NETWORK_EFFICIENCY = 0.9
#: Seconds that each peer of an all-to-all adds. 64 H800 exchange 8 MiB in 0.30 to 0.34 ms, of
#: which 0.16 are bytes: github.com/NVIDIA/nccl/issues/1531.
PEER_OVERHEAD_S = 2e-6


@dataclass(frozen=True)
class Group:
    """The devices of one collective: `devices_per_host` on each of `hosts`."""

    hosts: int
    devices_per_host: int

    @property
    def devices(self) -> int:
        return self.hosts * self.devices_per_host


def group_of(devices: Sequence[int], topology: Topology) -> Group:
    """The shape of a group of devices, numbered host by host.

    Where hosts hold different numbers of them, the fullest host counts.
    """
    per_host: dict[int, int] = {}
    for device in devices:
        host = topology.host_of(device)
        per_host[host] = per_host.get(host, 0) + 1
    return Group(len(per_host), max(per_host.values()))


def axis_group(mesh: MeshConfig, axes: tuple[str, ...], topology: Topology) -> Group:
    """The shape of the groups that talk over some mesh axes.

    Devices are in mesh order (`mesh.build.build_mesh`): inner axes stay inside a host as long as
    they can. Where groups differ, the one over the most hosts counts.

    Raises:
        UserError: the mesh and the topology differ in their number of devices.
    """
    shape = tuple(getattr(mesh, axis) for axis in AXES)
    if math.prod(shape) != topology.devices:
        raise UserError(
            f"the mesh has {math.prod(shape)} devices and {topology.name} has {topology.devices}: "
            "make them equal"
        )
    return _widest_group(shape, axes, topology)


@functools.cache
def _widest_group(shape: tuple[int, ...], axes: tuple[str, ...], topology: Topology) -> Group:
    index = np.arange(topology.devices).reshape(shape)
    inner = [i for i, axis in enumerate(AXES) if axis in axes]
    rows = np.moveaxis(index, inner, range(-len(inner), 0))
    groups = rows.reshape(-1, math.prod(shape[i] for i in inner))
    shapes = {group_of([int(d) for d in row], topology) for row in groups}
    return max(shapes, key=lambda group: (group.hosts, -group.devices_per_host))


def collective_time(kind: str, bytes_per_device: float, group: Group, topology: Topology) -> float:
    """Seconds of one collective by itself.

    With n devices, h hosts, g devices per host, S = bytes_per_device, o = `PEER_OVERHEAD_S`,
    latencies a and effective rates B of NVLink (v) and network (w):

        all-to-all           a + (n - 1) o + max(S (g - 1) / n / Bv, S (n - g) / n / Bw)
        all-gather,
        reduce-scatter       (n - h) av + (h - 1) aw + S (n - 1) / n / min(Bv, g Bw)
        all-reduce           a reduce-scatter and an all-gather
        collective-permute   a + S / B

    where a and B are the network's as soon as h > 1, and min(Bv, g Bw) is Bv when h = 1. The
    latency of rings is that of NCCL's cost model (github.com/NVIDIA/nccl, src/graph/tuning.cc).

    Args:
        kind: as `timeline.COLLECTIVES` names it.
        bytes_per_device: the larger of what one device reads and what it writes, in bytes: the
            whole gathered array of an all-gather, the whole operand of a reduce-scatter.
        group: who takes part.

    Returns:
        Seconds; 0 for a group of one.

    Raises:
        UserError: for a kind without a model, or a topology whose links are unknown.
    """
    if kind not in _MODELS:
        raise UserError(f"no model of {kind!r}: use one of {', '.join(_MODELS)}")
    _require_links(group, topology)
    if group.devices == 1:
        return 0.0
    return _MODELS[kind](bytes_per_device, group, topology)


def nvlink_rate(topology: Topology) -> float:
    """Bytes/s per device and direction that a collective reaches inside a host."""
    return NVLINK_EFFICIENCY * topology.nvlink_bytes_per_s


def network_rate(topology: Topology) -> float:
    """Bytes/s per device and direction that a collective reaches between hosts."""
    return NETWORK_EFFICIENCY * topology.network_bytes_per_s


def _all_to_all(size: float, group: Group, topology: Topology) -> float:
    n, g = group.devices, group.devices_per_host
    inside = size * (g - 1) / n / nvlink_rate(topology)
    between = size * (n - g) / n / network_rate(topology) if group.hosts > 1 else 0.0
    return _latency(group, topology) + (n - 1) * PEER_OVERHEAD_S + max(inside, between)


def _ring(size: float, group: Group, topology: Topology) -> float:
    n = group.devices
    hops = (n - group.hosts) * topology.nvlink_latency_s
    rates = [nvlink_rate(topology)] if group.devices_per_host > 1 else []
    if group.hosts > 1:
        hops += (group.hosts - 1) * topology.network_latency_s
        rates.append(group.devices_per_host * network_rate(topology))
    return hops + size * (n - 1) / n / min(rates)


def _all_reduce(size: float, group: Group, topology: Topology) -> float:
    return 2 * _ring(size, group, topology)


def _permute(size: float, group: Group, topology: Topology) -> float:
    rate = network_rate(topology) if group.hosts > 1 else nvlink_rate(topology)
    return _latency(group, topology) + size / rate


def _latency(group: Group, topology: Topology) -> float:
    return topology.network_latency_s if group.hosts > 1 else topology.nvlink_latency_s


def _require_links(group: Group, topology: Topology) -> None:
    needed = {"network_bytes_per_s"} if group.hosts > 1 else set()
    if group.devices_per_host > 1:
        needed.add("nvlink_bytes_per_s")
    if missing := sorted(needed & set(topology.unknown)):
        raise UserError(
            f"{topology.name}: {', '.join(missing)} is unknown, so a collective has no modelled "
            "time: use a cluster of hardware/clusters.toml, or describe yours in a hardware file"
        )


_MODELS: dict[str, Callable[[float, Group, Topology], float]] = {
    "all-to-all": _all_to_all,
    "all-gather": _ring,
    "reduce-scatter": _ring,
    "all-reduce": _all_reduce,
    "collective-permute": _permute,
}
