"""Which platform provides a mesh's devices, chosen before JAX starts.

Arranging the devices is `build.py`; starting a job of several processes is `distributed.py`.
"""

import ctypes
import logging
import math
import os
from importlib.metadata import entry_points

import jax
from jax._src import xla_bridge  # JAX has no public way to ask whether backends have started.

from moe_jax.config.schema import Config
from moe_jax.mesh.build import MeshError, mesh_shape
from moe_jax.mesh.xla_options import MEMORY_FRACTION

log = logging.getLogger(__name__)


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
