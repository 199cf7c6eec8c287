"""What a measurement was taken on and with, in words that are printed and recorded beside it."""

import os

from moe_jax.hardware.gpus import gpu_by_device_kind
from moe_jax.hardware.topology import Device, Topology

PACKAGES = ("moe-jax", "jax", "jaxlib")
#: Printed and recorded wherever figures of emulated devices appear.
EMULATED = "emulated devices share cores"


def gpu_name(device: Device) -> str:
    """Return the name in `gpus.toml`, or JAX's device kind of a device that is not there."""
    gpu = gpu_by_device_kind(device.device_kind)
    return gpu.name if gpu else device.device_kind


def describe_hardware(topology: Topology, device: Device) -> str:
    """Return what was measured, in words."""
    emulated = f" ({EMULATED})" if device.platform == "cpu" else ""
    hosts = f"{topology.hosts} host" + ("s" if topology.hosts > 1 else "")
    return f"{topology.devices} x {device.device_kind} in {hosts}{emulated}"


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))
