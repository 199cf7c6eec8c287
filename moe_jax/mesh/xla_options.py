"""The one place of XLA compiler options this project depends on, each with its reason.

Every entry point that compiles for GPUs (training, inference, planner) takes them from here.
Environment flags of a deviceless compile live in `planner/compile/target.py`; NCCL's and JAX's own
environment variables do not live here.

Names come and go with XLA's versions, and an unknown one is fatal: in XLA_FLAGS it ends the
process, as a compiler option it fails the compile. So XLA is asked before any is set.
"""

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version

from moe_jax.errors import UserError

log = logging.getLogger(__name__)

#: Options of every GPU compile. The overlap of communication and compute rests on them.
_GPU = {
    # Starts collectives early and waits late. Hopper's default turns itself off as soon as the
    # program holds a collective outside XLA's short list (one ragged_all_to_all is enough).
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # The dot merger joins matmuls that share a weight, which is what the streams of a layer do:
    # all dispatches, one matmul, all combines, and nothing left to hide behind. 0 MB = off.
    "xla_gpu_dot_merger_threshold_mb": 0,
    # The scheduler gives up overlap to save memory long before memory runs out: it budgets for a
    # donated training state twice. Compiled for paper_ep16's training step: 31.6 % of a backward
    # layer's all-to-all exposed at 66.5 GiB with the default (95), 0.6 % at 67.7 GiB with this.
    "xla_gpu_memory_limit_slop_factor": 130,
}

#: Added where no GPU is present.
_DEVICELESS = {
    # Autotuning times kernels on the device.
    "xla_gpu_autotune_level": 0,
    # Without it the scheduler costs every collective at a constant, whatever its bytes and links.
    "xla_gpu_enable_analytical_sol_latency_estimator": True,
}

#: Share of a GPU's memory that JAX may take. Its default, 0.75, is 59 GiB of an H100, on which
#: paper_ep16's training step (56 GiB, compiled) ran out of memory; CUDA's context, NCCL's buffers
#: and loaded kernels need the rest.
MEMORY_FRACTION = 0.92

_GPU_PLATFORMS = ("gpu", "cuda")

#: Of JAX, whose XLA knows every option here.
VERSIONS_RUN = "0.10.2 and 0.12.0.1"

#: Prints those of its arguments that XLA takes as XLA_FLAGS: XLA reads them once, and ends the
#: process if it does not know them. What JAX is built on does so in no time, or else JAX itself.
_ASK = """
import os, sys
try:
    from jaxlib import xla_client
except ImportError:
    pass

def read_flags():
    try:
        xla_client.CompileOptions().executable_build_options.debug_options
    except (NameError, AttributeError):
        import jax
        jax.devices("cpu")

for flag in sys.argv[1:]:
    if not os.fork():
        os.environ["XLA_FLAGS"] = flag
        read_flags()
        os._exit(0)
    if os.wait()[1] == 0:
        print(flag, flush=True)
"""


def compiler_options(platform: str) -> dict[str, bool | int]:
    """Options for `jax.jit(..., compiler_options=...)` and `Lowered.compile`.

    Args:
        platform: `jax.default_backend()` or a lowering platform: "cpu", "gpu" or "cuda".

    Returns:
        A fresh dict of what the installed XLA knows; empty on CPU, which has no use for them.

    Raises:
        UserError: for a platform whose options nobody has established.
    """
    if platform in _GPU_PLATFORMS:
        return dict(_known_of_gpu())
    if platform == "cpu":
        return {}
    raise UserError(
        f"no XLA options are known for platform {platform!r}: use one of "
        f"{', '.join(('cpu', *_GPU_PLATFORMS))}, or add its options to moe_jax/mesh/xla_options.py"
    )


def target_options() -> dict[str, bool | int]:
    """Options for compiling for a GPU that is not there: the GPU's, and what stands in for it."""
    return _GPU | _DEVICELESS


def known(options: Mapping[str, bool | int | str]) -> dict[str, bool | int | str]:
    """Those of `options` that the installed XLA knows, asked in a process of its own.

    Neither starts JAX nor reads this process's XLA_FLAGS, so that these can still be set.
    """
    flags = {name: xla_flags({name: value}) for name, value in options.items()}
    accepted = _accepted(tuple(flags.values()))
    return {name: options[name] for name, flag in flags.items() if flag in accepted}


def require_known(options: Mapping[str, bool | int | str], purpose: str) -> None:
    """Check that the installed XLA knows every one of `options`.

    Args:
        options: by name, with the values they will have.
        purpose: what cannot be done without them, for the message.

    Raises:
        UserError: names those it does not know, and the versions of JAX that do.
    """
    if missing := options.keys() - known(options).keys():
        raise UserError(
            f"{purpose} needs XLA's {', '.join(sorted(missing))}, unknown to the XLA of jaxlib "
            f"{version('jaxlib')}: install one of the versions of JAX that this was run with "
            f"({VERSIONS_RUN})"
        )


def xla_flags(options: Mapping[str, bool | int | str]) -> str:
    """`options` as the environment variable XLA_FLAGS takes them."""
    return " ".join(f"--{name}={_text(value)}" for name, value in options.items())


def _text(value: bool | int | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def _accepted(flags: tuple[str, ...]) -> frozenset[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    command = [sys.executable, "-P", "-c", _ASK, *flags]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    return frozenset(answer.stdout.splitlines())


@functools.cache
def _known_of_gpu() -> dict[str, bool | int]:
    options = {name: value for name, value in _GPU.items() if name in known(_GPU)}
    if missing := ", ".join(_GPU.keys() - options.keys()):
        log.warning(
            "the XLA of jaxlib %s does not know %s: programs are compiled without, and may overlap "
            "less communication with compute; JAX %s know all options",
            *(version("jaxlib"), missing, VERSIONS_RUN),
        )
    return options
