"""Deviceless compiles as a library call: jobs in, memory, HLO text and schedule out.

Each call runs one worker process (`worker.py`), because XLA's dump and estimator flags are read
from the environment once, before the compiler loads, and the caller's process may hold a JAX that
has started already. What runs inside the worker is in `deviceless.py`.
"""

import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moe_jax.config.schema import MeshConfig
from moe_jax.errors import UserError
from moe_jax.mesh.xla_options import require_known, target_options, xla_flags
from moe_jax.planner.compile.target import Target, target_text
from moe_jax.planner.xla.timeline import Timeline, parse_timelines

INSTALL = "pip install 'moe-jax[plan]'"
#: What XLA says where it finds neither a CUDA toolkit nor the wheel that has these two of it.
_NO_TOOLKIT = ("libdevice not found", "No PTX compilation provider")


class PlanExtraMissing(UserError):
    """What deviceless compilation needs is not installed."""


class CompileFailed(UserError):
    """A job could not be built or compiled; the message ends with the worker's traceback."""


@dataclass(frozen=True)
class CompileJob:
    """One program to compile.

    `build` names a function as "module:function", importable with the caller's `sys.path`. The
    worker calls it as `function(mesh, **kwargs)`; it returns a jitted function and the tuple of
    its abstract arguments. `kwargs` must survive JSON. `options` override XLA options.
    """

    build: str
    mesh: MeshConfig
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, bool | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What XLA made of a job. Bytes are per device, from XLA's buffer assignment."""

    target: Target
    argument_bytes: int
    output_bytes: int
    #: Part of the output that reuses (donated) arguments.
    alias_bytes: int
    temp_bytes: int
    peak_bytes: int
    hlo_text: str = field(repr=False)
    schedule_text: str = field(repr=False)
    #: XLA's module as a serialised HloProto; `xla/buffers.py` reads what is in memory when.
    buffers: bytes = field(repr=False)

    @functools.cached_property
    def timelines(self) -> tuple[Timeline, ...]:
        """XLA's simulated timelines, one per computation that its scheduler arranged.

        Raises:
            UserError: for a target whose collectives XLA has no cost model for.
        """
        if not self.target.has_timeline:
            raise UserError(f"{self.target.why_no_timeline}; memory and hlo_text are real")
        return parse_timelines(self.schedule_text)


def compile_all(target: Target, jobs: Sequence[CompileJob]) -> tuple[Compiled, ...]:
    """Compile jobs for a cluster that is not there, one after another in one worker process.

    Args:
        target: the cluster; every job's mesh must have as many devices.
        jobs: what to compile.

    Returns:
        One result per job, in order.

    Raises:
        PlanExtraMissing: with the line that installs what is missing.
        UserError: when a mesh has another number of devices than the target, or the installed XLA
            does not know an option that the results rest on.
        CompileFailed: at the first job that fails; no later job runs.
    """
    require_plan_extra()
    for job in jobs:
        _check_size(job, target)
    with tempfile.TemporaryDirectory(prefix="moe-jax-plan-") as root:
        out, dumps = Path(root, "out"), Path(root, "dumps")
        out.mkdir()
        dumps.mkdir()
        require_known(
            target_options() | _worker_options(target, dumps),
            "compiling for GPUs that are not there",
        )
        request = Path(root, "request.json")
        request.write_text(json.dumps(_request(target, jobs, dumps)))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "moe_jax.planner.compile.worker", str(request), str(out)],
            env=_environment(target, dumps),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise CompileFailed(_failure(jobs, out, done))
        return tuple(_result(target, out, i) for i in range(len(jobs)))


def require_plan_extra() -> None:
    """Check for the CUDA plugin and cuDNN, without loading either.

    Raises:
        PlanExtraMissing: naming what was not found and how to install it.
    """
    plugins = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
    missing = []
    if not any(_installed(name) for name in plugins):
        missing.append("JAX's CUDA plugin")
    if not _installed("nvidia.cudnn"):
        missing.append("cuDNN")
    if missing:
        raise PlanExtraMissing(
            f"compiling for GPUs that are not there needs {' and '.join(missing)} (no GPU and no "
            f"driver, though): {INSTALL}"
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _check_size(job: CompileJob, target: Target) -> None:
    sizes = job.mesh.model_dump()
    if (size := math.prod(sizes.values())) != target.devices:
        axes = ", ".join(f"{axis}={n}" for axis, n in sizes.items())
        raise UserError(
            f"the mesh of {job.build} ({axes}) has {size} devices, the target {target.hosts} hosts "
            f"x {target.devices_per_host} = {target.devices}: make them equal"
        )


def _request(target: Target, jobs: Sequence[CompileJob], dumps: Path) -> dict[str, Any]:
    return {
        "target_text": target_text(target.gpu),
        "hosts": target.hosts,
        "devices_per_host": target.devices_per_host,
        "dump_dir": str(dumps),
        "jobs": [asdict(job) | {"mesh": job.mesh.model_dump()} for job in jobs],
    }


def _environment(target: Target, dumps: Path) -> dict[str, str]:
    """Return the caller's environment without what would make results depend on it."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return mine | {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        # A program found in the cache is not scheduled, and leaves no dump.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        # A GPU that happens to be here must not have a say.
        "CUDA_VISIBLE_DEVICES": "",
        "XLA_FLAGS": xla_flags(_worker_options(target, dumps)),
    }


def _worker_options(target: Target, dumps: Path) -> dict[str, bool | str]:
    """Return the options that reach the compiler only through the environment."""
    return {
        "xla_dump_to": str(dumps),
        "xla_dump_latency_hiding_schedule": True,
        # As text for the schedule, which has no parser here otherwise; as protos for the buffers.
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_as_proto": True,
        **target.estimator.options(target.devices_per_host),
    }


def _failure(jobs: Sequence[CompileJob], out: Path, done: subprocess.CompletedProcess[str]) -> str:
    report = out / "error.json"
    if report.exists():
        error = json.loads(report.read_text())
        job, remedy = jobs[error["job"]], ""
        if any(said in error["message"] for said in _NO_TOOLKIT):
            remedy = f"\nptxas and libdevice are missing, of any CUDA 12 or 13: {INSTALL}"
        return f"{job.build} ({dict(job.kwargs)}): {error['message']}\n{error['traceback']}{remedy}"
    finished = len(list(out.glob("*.json")))
    at = jobs[finished].build if finished < len(jobs) else "its end"
    tail = "\n".join(done.stderr.splitlines()[-20:])
    return f"the compile worker died (exit code {done.returncode}) at {at}:\n{tail}"


def _result(target: Target, out: Path, i: int) -> Compiled:
    return Compiled(
        target=target,
        **json.loads((out / f"{i}.json").read_text()),
        hlo_text=(out / f"{i}.hlo").read_text(),
        schedule_text=(out / f"{i}.schedule").read_text(),
        buffers=(out / f"{i}.buffers").read_bytes(),
    )
