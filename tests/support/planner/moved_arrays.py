"""What a compiled program moves, array by array, against what its layout says. No tests here.

XLA joins small collectives of a kind into one: so arrays are counted, not instructions. Arrays that
are summed it joins into one array besides: so of all-reduces bytes are counted.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from moe_jax.axes import AXES
from moe_jax.config.schema import MeshConfig
from moe_jax.mesh.build import mesh_shape
from moe_jax.planner.xla.groups import Groups
from moe_jax.planner.xla.hlo import (
    Collective,
    HloComputation,
    array_shapes,
    called,
    collectives_of,
    op_name,
    parse_hlo,
    shape_bytes,
)
from moe_jax.planner.xla.loops import entry_of, executions

#: Scalars and counters (of a layer or a step) may be summed by anyone at any time.
COUNTER_BYTES = 1024
#: Axes of a collective whose groups are not those of any axes.
NO_AXES = ("none of the mesh",)


@dataclass(frozen=True)
class Array:
    """One array of a collective, and how often it moves in a step.

    Attributes:
        axes: the mesh axes that the collective's groups run along.
        bytes: on one device, of what is read or written, whichever is larger.
        phase: "forward", "backward" or "" where the program does not say.
    """

    kind: str
    axes: tuple[str, ...]
    dtype: str
    bytes: int
    times: int
    phase: str
    name: str
    op_name: str
    groups: Groups

    def __str__(self) -> str:
        return (
            f"{self.times} x {self.kind} of {self.dtype}, {self.bytes} bytes over {self.axes} "
            f"{self.groups[:2]}: {self.name}, {self.op_name!r}"
        )


@dataclass(frozen=True)
class Expected:
    """What a layout moves: one array of so many bytes (as `Array` counts), so often."""

    what: str
    kind: str
    axes: tuple[str, ...]
    dtype: str
    bytes: int
    times: int


def _key(moved: Array | Expected) -> tuple:
    joined = moved.kind == "all-reduce"
    return (moved.kind, moved.axes, moved.dtype, "in all" if joined else moved.bytes)


def _amount(moved: Array | Expected) -> int:
    return moved.times * (moved.bytes if moved.kind == "all-reduce" else 1)


def moved_arrays(hlo_text: str, mesh: MeshConfig) -> tuple[Array, ...]:
    """Every array that collectives move in a step on balanced routing: branches are left out."""
    module = parse_hlo(hlo_text)
    times, phases, axes = executions(module), _phases(module), _axes_of_groups(mesh)
    return tuple(
        array
        for name, computation in module.items()
        if times[name]
        for collective in collectives_of(computation)
        for array in _arrays(collective, computation, times[name], phases[name], axes, mesh)
    )


def explain(arrays: Iterable[Array], expected: Iterable[Expected]) -> None:
    """Fails for every array that no entry explains, and for every entry that is not met exactly."""
    entries = tuple(expected)
    arrays = tuple(a for a in arrays if not _is_counter(a))
    wanted, found = _amounts(entries), _amounts(arrays)
    problems = [f"nothing explains {array}" for array in arrays if _key(array) not in wanted]
    for key, amount in wanted.items():
        if found[key] != amount:
            names = ", ".join(entry.what for entry in entries if _key(entry) == key)
            problems.append(f"{names}: {amount} expected, {found[key]} found, {key}")
            problems += [f"  {array}" for array in arrays if _key(array) == key]
    assert not problems, "\n".join(problems)


def _amounts(moved: Iterable[Array | Expected]) -> Counter[tuple]:
    amounts: Counter[tuple] = Counter()
    for one in moved:
        amounts[_key(one)] += _amount(one)
    return amounts


def _is_counter(array: Array) -> bool:
    small = array.bytes <= COUNTER_BYTES and array.dtype in ("f32", "s32")
    return small and array.kind in ("all-reduce", "all-gather") and array.axes != NO_AXES


def _arrays(
    collective: Collective,
    computation: HloComputation,
    times: int,
    phase: str,
    axes: Mapping[frozenset, tuple[str, ...]],
    mesh: MeshConfig,
) -> Iterator[Array]:
    instruction = computation.by_name[collective.name]
    name = op_name(instruction)
    if "jvp(" in name:
        phase = _phase(name)
    group = len(collective.groups[0]) if collective.groups else math.prod(mesh_shape(mesh))
    if collective.kind == "collective-permute":
        along = _ring(collective.groups, mesh)
    else:
        along = axes.get(_as_sets(collective.groups), NO_AXES)
    for operand in instruction.operands:
        (shape,) = array_shapes(computation.by_name[operand].shape)
        size = shape_bytes(shape) * (group if collective.kind == "all-gather" else 1)
        dtype = shape.split("[")[0]
        yield Array(
            collective.kind,
            along,
            dtype,
            size,
            times,
            phase,
            collective.name,
            name,
            collective.groups,
        )


def _phases(module: Mapping[str, HloComputation]) -> dict[str, str]:
    """Computation -> the phase of the innermost loop that names one."""
    phases: dict[str, str] = {}

    def visit(name: str, phase: str) -> None:
        phases[name] = phase
        for i in module[name].instructions:
            for inner in called(i):
                visit(inner, _phase(op_name(i)) or phase if i.opcode == "while" else phase)

    visit(entry_of(module), "")
    return phases


def _phase(name: str) -> str:
    return "backward" if "transpose(" in name else "forward" if "jvp(" in name else ""


def _as_sets(groups: Groups) -> frozenset:
    return frozenset(frozenset(group) for group in groups)


def _axes_of_groups(mesh: MeshConfig) -> dict[frozenset, tuple[str, ...]]:
    """Groups of devices -> the axes that they run along."""
    shape = mesh_shape(mesh)
    ids = np.arange(math.prod(shape)).reshape(shape)
    long = [axis for axis, size in zip(AXES, shape, strict=True) if size > 1]
    found: dict[frozenset, tuple[str, ...]] = {frozenset(): tuple(long)}
    for count in range(1, len(long) + 1):
        for along in combinations(long, count):
            places = [AXES.index(axis) for axis in along]
            rows = np.moveaxis(ids, places, range(-count, 0)).reshape(
                -1, math.prod(shape[place] for place in places)
            )
            found[frozenset(frozenset(row.tolist()) for row in rows)] = along
    return found


def _ring(pairs: Groups, mesh: MeshConfig) -> tuple[str, ...]:
    """The axis on which every pair are neighbours, all in one direction."""
    shape = mesh_shape(mesh)
    at = [tuple(int(i) for i in np.unravel_index(d, shape)) for d in range(math.prod(shape))]
    for place, axis in enumerate(AXES):
        for step in (1, -1):
            ring = {
                (source, at.index((*c[:place], (c[place] + step) % shape[place], *c[place + 1 :])))
                for source, c in enumerate(at)
            }
            if shape[place] > 1 and set(pairs) == ring:
                return (axis,)
    return NO_AXES
