"""The parts of a step: forward and backward through the layers, and what is outside of them.

A layer is a repetition of the loop named `LAYERS`; a decode step has none, its layers
follow each other in the entry computation and bear the name there. In a pipeline that loop runs
over ticks, and inside of each over the layers of a virtual stage. A loop of the transposed program
is backward, what it recomputes of forward included. How long computations take is `clock.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.report.figures import NO_TIME, Pass, Step, Times
from moe_jax.planner.xla.hlo import op_name
from moe_jax.scopes import LAYERS

_LAYER_LOOP = re.compile(rf"\b{LAYERS}\)*(/shard_map)?/while$")
_INSIDE = re.compile(rf"(.*?\b{LAYERS}\)*(?:/shard_map)?/while)/body/")
#: Inside a tick; what searches and sorts loops too, under a name of its own.
_GROUP_LOOP = re.compile(
    rf"\b{LAYERS}\)*/shard_map/while/body/((closed_call|checkpoint|rematted_computation)/)*while$"
)


_UNROLLED = re.compile(rf"\b{LAYERS}/shard_map/")


@dataclass(frozen=True)
class LayerLoop:
    """A loop over layers, or over the ticks of a pipeline: its body, how often that runs in a step.

    `groups` are the loops over layers inside a tick, (body, trips) each; () where a repetition is
    a single layer.
    """

    body: str
    repetitions: int
    is_backward: bool
    groups: tuple[tuple[str, int], ...] = ()

    @property
    def units(self) -> int:
        """Repetitions of the unit of layers in one repetition of this loop."""
        return max((trips for _, trips in self.groups), default=1)


def layer_loops(clock: Clock) -> tuple[LayerLoop, ...]:
    """Return the loops over layers that a step runs through, in order."""
    found = _loops(clock, clock.entry, 1, _LAYER_LOOP)
    return tuple(
        LayerLoop(body, times, "transpose(" in name, tuple(_groups(clock, body)))
        for name, body, times in found
    )


def _groups(clock: Clock, body: str) -> Iterator[tuple[str, int]]:
    return ((inner, trips) for _, inner, trips in _loops(clock, body, 1, _GROUP_LOOP))


def _loops(
    clock: Clock, computation: str, times: int, named: re.Pattern[str]
) -> Iterator[tuple[str, str, int]]:
    """Yield (name, body, repetitions) of loops so named, not looking inside of them for more."""
    for i in clock.module[computation].instructions:
        if i.opcode not in ("while", "call", "conditional"):
            continue
        for inner, n in clock.calls(computation, i.name):
            name = op_name(i) or _name_inside(clock, inner)
            if i.opcode == "while" and named.search(name):
                yield name, inner, times * n
            else:
                yield from _loops(clock, inner, times * n, named)


def _name_inside(clock: Clock, body: str) -> str:
    """Return what a loop without a name was called, by the names of its instructions.

    XLA drops it where it moves a collective into the iteration before (and leaves one iteration
    outside).
    """
    names = (_INSIDE.match(op_name(i)) for i in clock.module[body].instructions)
    return next((found[1] for found in names if found), "")


def make_step(
    clock: Clock, layers_per_unit: int, *, bubble: float = 0.0, unrolled: int = 0
) -> Step:
    """Return the times of a step by part.

    Args:
        clock: the compiled program's times.
        layers_per_unit: layers in one repetition of the loop over them.
        bubble: share of the ticks of a pipeline at which a device has nothing of its own to do.
        unrolled: layers that follow each other where there is no loop.
    """
    loops = layer_loops(clock)

    def direction(backward: bool) -> Pass:
        if unrolled and not loops and not backward:
            whole = clock.times_of(clock.entry, _UNROLLED)
            return Pass(whole * (1 / unrolled), whole)
        mine = [loop for loop in loops if loop.is_backward == backward]
        whole, units, spent = NO_TIME, 0, NO_TIME
        for loop in mine:
            whole += clock.times(loop.body) * loop.repetitions
            units += loop.repetitions * loop.units
            spent += _unit_time(clock, loop) * (loop.repetitions * loop.units)
        return Pass(spent * (1 / units / layers_per_unit) if units else None, whole)

    forward, backward = direction(False), direction(True)
    total = clock.times(clock.entry)
    both = forward.whole + backward.whole
    return Step(
        kind="modelled",
        forward=forward,
        backward=backward if backward.layer else None,
        outside=total + both * -1,
        total=total,
        bubble_s=bubble * both.total_s,
    )


def _unit_time(clock: Clock, loop: LayerLoop) -> Times:
    """Return the time of one repetition of the unit of layers, without sends between stages."""
    if not loop.groups:
        return clock.times(loop.body)
    whole = NO_TIME
    for body, trips in loop.groups:
        whole += clock.times(body) * trips
    return whole * (1 / loop.units)
