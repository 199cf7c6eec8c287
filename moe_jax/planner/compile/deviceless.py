"""Compiling for GPUs that are not there, inside a process prepared for it.

Runs in the worker only: XLA reads its environment once, so `jobs.py` prepares a process of its own
for each batch of jobs. Reading what came out is for `xla/timeline.py`, `xla/hlo.py` and
`xla/overlap.py`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.experimental import topologies
from jax.sharding import Mesh

from moe_jax.config.schema import MeshConfig
from moe_jax.errors import UserError
from moe_jax.mesh.build import build_mesh
from moe_jax.mesh.xla_options import target_options
from moe_jax.planner.xla.hlo import without_code

PLATFORM = "cuda"


def target_mesh(target_text: str, hosts: int, devices_per_host: int, config: MeshConfig) -> Mesh:
    """Return a mesh over the devices of a cluster that is not there.

    Args:
        target_text: XLA's description of the GPU (`target.target_text`).
        hosts: of the cluster.
        devices_per_host: of each; devices are numbered host by host.
        config: the mesh axes' sizes, their product being `hosts * devices_per_host`.

    Returns:
        A mesh with all axes of `axes.AXES`, outer to inner, all of type Auto.
    """
    topology = topologies.get_topology_desc(
        "", PLATFORM, topology=f"1x{hosts}x{devices_per_host}", target_config=target_text
    )
    return build_mesh(config, topology.devices)


def load_builder(spec: str) -> Callable[..., Any]:
    """Return the function behind "module:function".

    Raises:
        UserError: when `spec` has another form, or the module no such function.
    """
    module, _, function = spec.partition(":")
    if not module or not function:
        raise UserError(f"build must be 'module:function', got {spec!r}")
    builder: Any = getattr(importlib.import_module(module), function, None)
    if not callable(builder):
        raise UserError(f"module {module} has no function {function!r} to build a program with")
    return builder


@dataclass(frozen=True)
class Program:
    """What a compile left behind."""

    #: Bytes of memory.
    figures: dict[str, int]
    #: The scheduled HLO. Kernels' code is cut out of it and of the schedule.
    hlo_text: str
    #: XLA's schedule as proto text; "" when the scheduler had nothing to schedule.
    schedule_text: str
    #: The module after all passes as a serialised HloProto, which holds its buffer assignment.
    buffers: bytes


def compile_program(
    mesh: Mesh, build: str, kwargs: Mapping[str, Any], options: Mapping[str, Any], dump_dir: Path
) -> Program:
    """Build a program on `mesh`, compile it, collect XLA's schedule.

    Args:
        mesh: over the target's devices.
        build: "module:function"; called as `function(mesh, **kwargs)`, it returns a jitted
            function and the tuple of its abstract arguments (shapes, dtypes, shardings).
        kwargs: what it is called with besides the mesh.
        options: XLA options that override `target_options()`.
        dump_dir: where this process's XLA_FLAGS make XLA write dumps.
    """
    jitted, args = load_builder(build)(mesh, **kwargs)
    lowered = jitted.trace(*args).lower(lowering_platforms=(PLATFORM,))
    # XLA names a dump after its module alone: what is there now belongs to someone else.
    for stale in dump_dir.iterdir():
        stale.unlink()
    compiled = lowered.compile(compiler_options=target_options() | dict(options))
    stats: Any = compiled.memory_analysis()
    return Program(
        figures=_memory(stats),
        hlo_text=without_code(compiled.as_text()),
        schedule_text=without_code(_schedule(dump_dir)),
        buffers=_only(dump_dir, "*gpu_after_optimizations.hlo.pb").read_bytes(),
    )


def _memory(stats: Any) -> dict[str, int]:
    return {
        "argument_bytes": stats.argument_size_in_bytes,
        "output_bytes": stats.output_size_in_bytes,
        "alias_bytes": stats.alias_size_in_bytes,
        "temp_bytes": stats.temp_size_in_bytes,
        "peak_bytes": stats.peak_memory_in_bytes,
    }


def _schedule(dump_dir: Path) -> str:
    pattern = "*.schedule.txt"
    return _only(dump_dir, pattern).read_text() if any(dump_dir.glob(pattern)) else ""


def _only(dump_dir: Path, pattern: str) -> Path:
    paths = sorted(dump_dir.glob(pattern))
    if len(paths) != 1:
        names = ", ".join(p.name for p in paths)
        raise UserError(f"one compile wrote {len(paths)} files {pattern} ({names}), not 1")
    return paths[0]
