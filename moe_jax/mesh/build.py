"""From the configured axis sizes to a JAX mesh.

Which platform provides the devices is `platform.py`; starting a job of several processes is
`distributed.py`; what links the devices is `hardware/topology.py`.
"""

import logging
import math
from collections.abc import Sequence

import jax
import numpy as np

from moe_jax.axes import AXES, BATCH_AXES, TENSOR
from moe_jax.config.schema import MeshConfig
from moe_jax.errors import UserError
from moe_jax.hardware.topology import Device, Topology, host_keys

log = logging.getLogger(__name__)


class MeshError(UserError):
    """The devices do not fit the mesh."""


def mesh_shape(config: MeshConfig) -> tuple[int, ...]:
    """Return the sizes of all axes, outer to inner."""
    return tuple(getattr(config, axis) for axis in AXES)


def build_mesh(config: MeshConfig, devices: Sequence[Device] | None = None) -> jax.sharding.Mesh:
    """Arrange devices by host, so that inner axes stay inside a host as long as they can.

    Args:
        config: axis sizes; their product is the number of devices.
        devices: the devices to use, in any order; None takes all devices of the job.

    Raises:
        MeshError: the number of devices is not the product of the axes.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config)
    if math.prod(shape) != len(devices):
        named = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
        raise MeshError(
            f"the mesh needs {math.prod(shape)} devices ({named}) and there are {len(devices)}: "
            f"change mesh.expert or mesh.data so that the product is {len(devices)}, or start "
            f"the job on {math.prod(shape)} devices"
        )
    # An object array keeps NumPy from looking inside the devices.
    grid = np.empty(len(devices), dtype=object)
    grid[:] = order_devices(devices)
    # Auto: shardings inside jit are the compiler's to propagate; Explicit is JAX's default now.
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(grid.reshape(shape), AXES, axis_types=types)


def order_devices(devices: Sequence[Device]) -> list[Device]:
    """Sort devices by host, then by their order on it."""
    keyed = zip(host_keys(devices), devices, strict=True)
    by_host = sorted(keyed, key=lambda pair: (pair[0], pair[1].process_index, pair[1].id))
    return [device for _, device in by_host]


def host_table(mesh: jax.sharding.Mesh, topology: Topology) -> tuple[int, ...]:
    """Return the host of each batch shard; see `hosts_of_shards`.

    Args:
        mesh: its devices are in the order of `order_devices`.
        topology: of the same devices.

    Raises:
        MeshError: mesh and topology have different numbers of devices.
    """
    if mesh.size != topology.devices:
        raise MeshError(
            f"the mesh has {mesh.size} devices and the topology {topology.name} has "
            f"{topology.devices}: set runtime.cluster to one with {mesh.size} devices, or to detect"
        )
    return hosts_of_shards(mesh, topology.devices_per_host)


def hosts_of_shards(mesh: jax.sharding.Mesh, devices_per_host: int) -> tuple[int, ...]:
    """Return the host of each batch shard, pipe * data * fsdp * expert of them.

    Shards are in `BATCH_AXES` order. A shard spread over `tensor` counts as being where its first
    device is.

    Args:
        mesh: its devices are in the order of `order_devices`.
        devices_per_host: the same on every host.
    """
    index = np.arange(mesh.size).reshape([mesh.shape[axis] for axis in AXES])
    first = index.take(0, axis=AXES.index(TENSOR))
    assert first.shape == tuple(mesh.shape[axis] for axis in BATCH_AXES), first.shape
    return tuple(int(device) // devices_per_host for device in first.ravel())


def warn_of_slow_tensor_axis(config: MeshConfig, topology: Topology) -> None:
    """Log a warning if devices of one tensor group are on different hosts.

    Its collectives run several times in every layer, with nothing to hide behind.

    Args:
        config: sizes of the axes.
        topology: of the devices that make up the mesh.
    """
    if topology.hosts > 1 and topology.devices_per_host % config.tensor:
        log.warning(
            "mesh.tensor = %d does not stay inside a host of %d devices: its collectives cross "
            "the network in every layer; set mesh.tensor to a divisor of %d",
            config.tensor,
            topology.devices_per_host,
            topology.devices_per_host,
        )
