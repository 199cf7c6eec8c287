"""A process that believes in a cluster: its own device, and others that do not exist.

XLA compiles the device's program as for the whole cluster and runs it here, with collectives that
copy inside the device ("loopback"). So the compute of a cluster's step can be timed on one GPU;
what its communication takes, or hides behind, cannot.
"""

import os

import jax

from moe_jax.mesh.xla_options import require_known, xla_flags

#: Read once, when the first backend starts.
_OPTIONS = {
    # NCCL would wait for the others.
    "xla_gpu_collectives_implementation": "loopback",
    # Autotuning would share its work with processes that never answer (openxla/xla #28959).
    "xla_gpu_shard_autotuning": False,
}


def pretend_devices(devices: int) -> None:
    """Make JAX see `devices` GPUs, each a host of its own, of which only the first is here.

    Call before anything that touches JAX's devices, in a process that sees one GPU.

    Args:
        devices: of the cluster; which of them share a host makes no difference to compute.

    Raises:
        UserError: the installed XLA cannot pretend.
    """
    require_known(_OPTIONS, "timing a cluster's compute on one GPU")
    jax.config.update("jax_platforms", "cuda")
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(_OPTIONS)}"
    os.environ["XLA_FLAGS"] = flags.strip()
    jax.config.update("jax_mock_gpu_topology", f"1x{devices}x1")
