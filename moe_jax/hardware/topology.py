"""What connects the devices: hosts, links, memory; from the running job or from a name.

A named topology stands in for a cluster that is not there. The numbers of links are in
`clusters.py`, those of chips in `hardware/gpus.py`; which device sits where in the mesh is
`mesh/build.py`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from moe_jax.errors import UserError
from moe_jax.hardware.clusters import Cluster, known_clusters
from moe_jax.hardware.gpus import gpu_by_device_kind, known_gpus

#: What stands for emulated devices: they share one memory and have no links to describe.
CPU = "cpu"

#: Fields whose zero means that nobody knows the number.
MEASURES = (
    "nvlink_bytes_per_s",
    "network_bytes_per_s",
    "nvlink_latency_s",
    "network_latency_s",
    "memory_bytes",
)


class TopologyError(UserError):
    """A cluster that is unknown or does not fit the job's devices."""


class Device(Protocol):
    """The part of `jax.Device` that says where a device is; GPUs have a `slice_index` too."""

    @property
    def id(self) -> int:
        """Number of the device among all of the job."""
        ...

    @property
    def process_index(self) -> int:
        """Process that drives it."""
        ...

    @property
    def device_kind(self) -> str:
        """What its maker calls it: "NVIDIA H100 80GB HBM3"."""
        ...

    @property
    def platform(self) -> str:
        """Kind of backend: "cpu", "gpu", "cuda" or "rocm"."""
        ...


@dataclass(frozen=True)
class Topology:
    """Equal hosts of equally linked devices. A number that is 0 is unknown, see `unknown`.

    Attributes:
        name: what it was read from: "detected", or the cluster's name in full ("h100-8x2").
        hosts: servers; inside one, devices talk over NVLink, between them over the network.
        devices_per_host: devices of each server.
        nvlink_bytes_per_s: per device, one direction.
        network_bytes_per_s: per device, one direction.
        nvlink_latency_s: seconds for one message inside a host.
        network_latency_s: seconds for one message between hosts.
        memory_bytes: per device.
        device_kind: chip as `gpus.toml` names it, or JAX's device kind if it is not there.
    """

    name: str
    hosts: int
    devices_per_host: int
    nvlink_bytes_per_s: float
    network_bytes_per_s: float
    nvlink_latency_s: float
    network_latency_s: float
    memory_bytes: int
    device_kind: str

    @property
    def devices(self) -> int:
        """Number of devices on all hosts."""
        return self.hosts * self.devices_per_host

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the numbers that nobody knows; they are 0."""
        return tuple(name for name in MEASURES if not getattr(self, name))

    def host_of(self, device_index: int) -> int:
        """Return the host of a device, counted in mesh order (`build.order_devices`)."""
        if not 0 <= device_index < self.devices:
            raise TopologyError(
                f"device index {device_index} is outside {self.name}: it has {self.devices} "
                f"devices ({self.hosts} hosts x {self.devices_per_host}), counted from 0"
            )
        return device_index // self.devices_per_host


def find_topology(cluster: str, devices: Sequence[Device]) -> Topology:
    """Return the topology that `runtime.cluster` asks for.

    Args:
        cluster: "detect", or `CHIP-DEVICES[xHOSTS]` with a chip of `clusters.toml` and devices
            per host: "h100-8x2" is 2 hosts of 8 H100. Without `xHOSTS` there are as many hosts
            as the job's devices fill.
        devices: all devices of the job, over all hosts.

    Raises:
        TopologyError: the name is unknown, or does not describe `len(devices)` devices.
    """
    if cluster == "detect":
        return detect_topology(devices)
    chip, per_host, hosts = parse_cluster(cluster)
    hosts = hosts or max(1, len(devices) // per_host)
    if hosts * per_host != len(devices):
        raise TopologyError(
            f"runtime.cluster = {cluster} has {hosts * per_host} devices ({hosts} hosts x "
            f"{per_host}) and the job has {len(devices)}: write CHIP-DEVICESxHOSTS with that "
            'product, or runtime.cluster="detect"'
        )
    return named_topology(chip, hosts, per_host)


def parse_cluster(cluster: str) -> tuple[str, int, int]:
    """Split "h100-8x2" into chip, devices per host and hosts (0 when not given)."""
    match = re.fullmatch(
        r"([a-z][a-z0-9]*(?:-[a-z0-9]*[a-z])?)-([1-9]\d*)(?:x([1-9]\d*))?", cluster
    )
    if match is None:
        raise TopologyError(
            f"runtime.cluster = {cluster!r} must be detect, or CHIP-DEVICES[xHOSTS] such as "
            f"h100-8 or h100-8x2, with one of the chips {', '.join(_chips())}"
        )
    return match[1], int(match[2]), int(match[3] or 0)


def named_topology(chip: str, hosts: int, devices_per_host: int) -> Topology:
    """Return a cluster of `chip` servers as `clusters.toml` describes them.

    Args:
        chip: a GPU's name, or "cpu" for emulated devices, whose links are unknown.
        hosts: servers of the cluster.
        devices_per_host: devices that the job uses of each.

    Raises:
        TopologyError: the chip is unknown, or its server holds fewer devices.
    """
    if chip not in _chips():
        raise TopologyError(
            f"no cluster of {chip!r} is known: use one of {', '.join(_chips())}, or add a table "
            "to moe_jax/hardware/clusters.toml"
        )
    if chip == CPU:
        return _unlinked(f"cpu-{devices_per_host}x{hosts}", hosts, devices_per_host, CPU)
    memory = known_gpus()[chip].memory_bytes
    return cluster_topology(known_clusters()[chip], memory, hosts, devices_per_host)


def cluster_topology(
    cluster: Cluster, memory_bytes: int, hosts: int, devices_per_host: int
) -> Topology:
    """Return `hosts` servers of a cluster, `devices_per_host` devices each.

    Args:
        cluster: what its servers and links are.
        memory_bytes: of one device.
        hosts: servers.
        devices_per_host: devices that the job uses of each.

    Raises:
        TopologyError: a server of the cluster holds fewer devices.
    """
    if not 1 <= devices_per_host <= cluster.max_devices_per_host:
        raise TopologyError(
            f"a {cluster.name} host has 1 to {cluster.max_devices_per_host} devices, not "
            f"{devices_per_host}: use more hosts, such as "
            f"{cluster.name}-{cluster.max_devices_per_host}x2"
        )
    return Topology(
        name=f"{cluster.name}-{devices_per_host}x{hosts}",
        hosts=hosts,
        devices_per_host=devices_per_host,
        nvlink_bytes_per_s=cluster.nvlink_bytes_per_s,
        network_bytes_per_s=cluster.network_bytes_per_s,
        nvlink_latency_s=cluster.nvlink_latency_s,
        network_latency_s=cluster.network_latency_s,
        memory_bytes=memory_bytes,
        device_kind=cluster.name,
    )


def detect_topology(devices: Sequence[Device]) -> Topology:
    """Return the topology of the running job; links of an unknown chip are 0 (unknown).

    Args:
        devices: all devices of the job, over all hosts.

    Raises:
        TopologyError: there is no device, kinds differ, or hosts hold different numbers.
    """
    per_host = Counter(host_keys(devices))
    kinds = sorted({device.device_kind for device in devices})
    if len(kinds) != 1 or len(set(per_host.values())) != 1:
        raise TopologyError(
            f"a mesh needs equal hosts of one kind of device, the job has kinds {kinds} and "
            f"{sorted(per_host.values())} devices per host: give the job the same number of the "
            "same devices on every host"
        )
    hosts, each = len(per_host), len(devices) // len(per_host)
    gpu = gpu_by_device_kind(kinds[0])
    cluster = known_clusters().get(gpu.name) if gpu else None
    if gpu is None or cluster is None or each > cluster.max_devices_per_host:
        return _unlinked("detected", hosts, each, gpu.name if gpu else kinds[0])
    return replace(cluster_topology(cluster, gpu.memory_bytes, hosts, each), name="detected")


def host_keys(devices: Sequence[Device]) -> list[tuple[int, int]]:
    """Return for each device a sortable key of its host.

    A GPU's slice is its host, by boot id, whatever number of processes it runs. Where there is
    one slice only, each process is a host (emulated clusters, compile-only topologies), unless
    every process drives a single GPU: those share the one host.

    Args:
        devices: all devices of the job, in any order.
    """
    slices = [getattr(device, "slice_index", 0) for device in devices]
    processes = [device.process_index for device in devices]
    gpus = all(device.platform in ("gpu", "cuda", "rocm") for device in devices)
    one_each = len(set(processes)) == len(devices)
    by_slice = len(set(slices)) > 1 or (gpus and one_each)
    return [(s, 0 if by_slice else p) for s, p in zip(slices, processes, strict=True)]


def _unlinked(name: str, hosts: int, devices_per_host: int, device_kind: str) -> Topology:
    return Topology(name, hosts, devices_per_host, 0.0, 0.0, 0.0, 0.0, 0, device_kind)


def _chips() -> tuple[str, ...]:
    return (*known_clusters(), CPU)
