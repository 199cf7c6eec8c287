"""From the configured axis sizes to a JAX mesh, and the platform that provides its devices.

Starting a job of several processes is `distributed.py`; what links the devices is
`hardware/topology.py`.
"""

import ctypes
import logging
import math
import os
from collections.abc import Sequence
from importlib.metadata import entry_points

import jax
import numpy as np
from jax._src import xla_bridge  # JAX has no public way to ask whether backends have started.

from moe_jax.axes import AXES, BATCH_AXES, TENSOR
from moe_jax.config.schema import Config, MeshConfig
from moe_jax.errors import UserError
from moe_jax.hardware.topology import Device, Topology, host_keys
from moe_jax.mesh.xla_options import MEMORY_FRACTION

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


def running_devices() -> int:
    """Return how many devices JAX runs on; 0 before it has started, while they can be chosen."""
    return jax.device_count() if xla_bridge.backends_are_initialized() else 0


def prepare_devices(config: Config, num_processes: int = 1) -> str:
    """Choose the platform and, on CPU, the number of emulated devices; call before JAX starts.

    Args:
        config: `runtime.platform` says where to run. `auto` takes the GPUs if this process sees
            its share of the mesh, otherwise it emulates the mesh on the CPU, and logs which.
        num_processes: processes of the job, each of which provides an equal share of the mesh.

    Returns:
        "gpu" or "cpu".

    Raises:
        MeshError: no GPU for `gpu`, a mesh that processes cannot share equally, or JAX already
            running with other devices than the mesh needs.
    """
    share, rest = divmod(math.prod(mesh_shape(config.mesh)), num_processes)
    if rest:
        raise MeshError(
            f"{num_processes} processes cannot share a mesh of {share * num_processes + rest} "
            "devices equally: make the product of the mesh axes a multiple of the processes"
        )
    if xla_bridge.backends_are_initialized():
        return _running_platform(config, share * num_processes)
    platform = _choose_platform(config.runtime.platform, share)
    if platform == "gpu":
        # Read when the backend starts; the user's own setting wins.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY_FRACTION))
        # CPU stays available for data and checkpoints.
        jax.config.update("jax_platforms", "cuda,cpu")
        if num_processes == 1:
            # A mesh smaller than the machine leaves the other GPUs alone.
            jax.config.update("jax_cuda_visible_devices", ",".join(map(str, range(share))))
        return platform
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", share)
    return platform


def _running_platform(config: Config, wanted: int) -> str:
    running, platform = jax.device_count(), jax.default_backend()
    if running != wanted or config.runtime.platform not in ("auto", platform):
        raise MeshError(
            f"JAX has already started with {running} {platform} devices; this mesh needs {wanted} "
            f"on platform {config.runtime.platform}, which can only be chosen before JAX starts: "
            "restart the process (in a notebook, the kernel) and ask for this mesh first, or use "
            f"a mesh of {running} devices"
        )
    return platform


def _choose_platform(asked: str, share: int) -> str:
    if asked == "cpu":
        return "cpu"
    gpus = count_gpus()
    if asked == "gpu":
        if gpus == 0:
            raise MeshError(
                "runtime.platform = gpu, but JAX can use 0 NVIDIA GPUs here: check nvidia-smi, "
                "CUDA_VISIBLE_DEVICES and that moe-jax[cuda12] or [cuda13] is installed, or set "
                "runtime.platform=cpu to emulate the devices"
            )
        return "gpu"
    if (jax.config.values["jax_platforms"] or "").split(",")[0] == "cpu":
        log.info("JAX_PLATFORMS asks for the CPU: emulating %d devices", share)
        return "cpu"
    if gpus >= share:
        log.info("using %d of %d GPUs", share, gpus)
        return "gpu"
    level = logging.WARNING if gpus else logging.INFO
    log.log(level, "%d usable GPUs, this process needs %d: emulating on the CPU", gpus, share)
    return "cpu"


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that JAX could use in this process, without starting it."""
    if not any("cuda" in plugin.name for plugin in entry_points(group="jax_plugins")):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    # Both calls return 0 on success; neither creates a context on a device.
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
