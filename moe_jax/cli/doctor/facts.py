"""What a config amounts to, in numbers and tables, without running or allocating anything.

Whether it can run on this machine is `verb.py`; times and peak memory are the planner's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from rich.table import Table

from moe_jax.axes import AXES, BATCH_AXES
from moe_jax.cli.doctor.layout import layout_rows
from moe_jax.cli.shared.tables import binary, decimal, headed_table, key_value_table
from moe_jax.config import Config
from moe_jax.mesh.build import mesh_shape
from moe_jax.model.flops import Flops, active_parameters, flops_per_token, total_parameters
from moe_jax.model.skeleton import Skeleton, VariableInfo
from moe_jax.training.optimizer import make_optimizer
from moe_jax.training.state import TrainState, abstract_state


@dataclass(frozen=True)
class ConfigFacts:
    """A training run's size.

    Attributes:
        parameters, active_parameters: elements, all and those that one token meets.
        flops: model FLOPs of a token.
        tokens_per_step: positions of the global batch.
        parameter_bytes, optimizer_bytes: on each device.
    """

    parameters: int
    active_parameters: int
    flops: Flops
    tokens_per_step: int
    parameter_bytes: int
    optimizer_bytes: int


def config_facts(config: Config) -> ConfigFacts:
    """Return the size of a checked config's run, from shapes and shardings alone."""
    state = _abstract_state(config)
    return ConfigFacts(
        parameters=total_parameters(config),
        active_parameters=active_parameters(config),
        flops=flops_per_token(config),
        tokens_per_step=config.train.global_batch * config.data.sequence_length,
        parameter_bytes=device_bytes(state.params),
        optimizer_bytes=device_bytes(state.opt_state),
    )


def device_bytes(tree: Any) -> int:
    """Return the bytes that each device holds of a tree of arrays or ShapeDtypeStructs."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def summary_table(config: Config) -> Table:
    """Return the run's size as a table of two columns."""
    table = key_value_table(f"Config {config.name}")
    for name, value in _summary(config, config_facts(config)):
        table.add_row(name, value)
    return table


def parameter_table(config: Config) -> Table:
    """Return every parameter: shape with logical axes, where it is split, size per device."""
    state = _abstract_state(config)
    headings = ("name", "shape (logical axes)", "split over the mesh", "dtype", "per device")
    table = headed_table("Parameters", *headings)
    table.columns[0].no_wrap = True
    for name, info in Skeleton(config).variables.items():
        leaf = (state.buffers if info.is_buffer else state.params)[name]
        table.add_row(
            name + (" (buffer)" if info.is_buffer else ""),
            " x ".join(f"{n} {axis}" for n, axis in zip(info.shape, info.axes, strict=True)),
            ", ".join(_splits(info, leaf)) or "whole everywhere",
            str(leaf.dtype),
            binary(device_bytes(leaf)),
        )
    return table


def _summary(config: Config, facts: ConfigFacts) -> Iterator[tuple[str, str]]:
    mesh, train, moe = config.mesh, config.train, config.model.moe
    used = [f"{axis} {getattr(mesh, axis)}" for axis in AXES if getattr(mesh, axis) > 1]
    devices = math.prod(mesh_shape(mesh))
    yield "mesh", f"{' x '.join(used) or 'all axes 1'}: {devices} devices"
    if "moe" in config.model.layers:
        held = moe.num_experts // mesh.expert
        yield "experts", f"{moe.num_experts} per layer, top-{moe.top_k}, {held} on each device"
    shards = math.prod(getattr(mesh, axis) for axis in BATCH_AXES)
    yield (
        "global batch",
        f"{train.global_batch} sequences x {config.data.sequence_length:,} tokens = "
        f"{facts.tokens_per_step:,} tokens per step",
    )
    yield (
        "on each device",
        f"{train.global_batch // shards} sequences per step (accumulation {train.accumulation}, "
        f"streams {config.exchange.streams})",
    )
    yield from layout_rows(config)
    yield "parameters", f"{facts.parameters:,} ({decimal(facts.parameters)})"
    active = facts.active_parameters
    yield "active per token", f"{active:,} ({active / facts.parameters:.1%})"
    flops = facts.flops
    yield (
        "model FLOPs per token",
        f"{decimal(flops.total_forward)} forward, {decimal(flops.total_training)} training "
        f"({flops.attention / flops.total_forward:.0%} attention)",
    )
    step = flops.total_training * facts.tokens_per_step
    yield "model FLOPs per step", f"{decimal(step)}, {decimal(step / devices)} per device"
    yield (
        "memory per device",
        f"parameters {binary(facts.parameter_bytes)}, optimiser state "
        f"{binary(facts.optimizer_bytes)}; gradients and activations come on top",
    )


def _splits(info: VariableInfo, leaf: jax.ShapeDtypeStruct) -> Iterator[str]:
    """Yield "experts / 8 (expert)" for each dimension that the mesh does split."""
    sharding: Any = leaf.sharding
    for axis, entry in zip(info.axes, sharding.spec, strict=True):
        names = (entry,) if isinstance(entry, str) else entry or ()
        used = [name for name in names if sharding.mesh.shape[name] > 1]
        if used:
            parts = math.prod(sharding.mesh.shape[name] for name in used)
            yield f"{axis} / {parts} ({' x '.join(used)})"


def _abstract_state(config: Config) -> TrainState:
    skeleton = Skeleton(config)
    # Shapes and shardings need the mesh's axes, not its devices.
    mesh: Any = AbstractMesh(mesh_shape(config.mesh), AXES, (AxisType.Auto,) * len(AXES))
    return abstract_state(skeleton, make_optimizer(config, skeleton.variables), mesh)
