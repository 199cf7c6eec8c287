"""The parts of a step: forward and backward through the layers, and what is outside of them.

A layer is a repetition of the loop that `model/stack.py` names; a loop of the transposed program
is backward, what it recomputes of forward included. How long computations take is `clock.py`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.model.stack import LAYERS
from moe_jax.planner.clock import Clock
from moe_jax.planner.figures import NO_TIME, Pass, Step, Times
from moe_jax.planner.hlo import op_name

_LAYER_LOOP = re.compile(rf"\b{LAYERS}\)*/while$")


@dataclass(frozen=True)
class LayerLoop:
    """A loop over layers: its body, and how often that runs in a step."""

    body: str
    repetitions: int
    is_backward: bool


def layer_loops(clock: Clock) -> tuple[LayerLoop, ...]:
    """The loops over layers that a step runs through, in order."""
    return tuple(_layer_loops(clock, clock.entry, 1))


def _layer_loops(clock: Clock, computation: str, times: int) -> Iterator[LayerLoop]:
    for i in clock.module[computation].instructions:
        if i.opcode not in ("while", "call", "conditional"):
            continue
        name = op_name(i)
        for inner, n in clock.calls(computation, i.name):
            if i.opcode == "while" and _LAYER_LOOP.search(name):
                yield LayerLoop(inner, times * n, "transpose(" in name)
            else:
                yield from _layer_loops(clock, inner, times * n)


def make_step(clock: Clock, layers_per_unit: int) -> Step:
    """The times of a step by part.

    Args:
        layers_per_unit: layers in one repetition of the loop over them.
    """
    whole: dict[bool, Times] = defaultdict(lambda: NO_TIME)
    repetitions: dict[bool, int] = defaultdict(int)
    for loop in layer_loops(clock):
        whole[loop.is_backward] += clock.times(loop.body) * loop.repetitions
        repetitions[loop.is_backward] += loop.repetitions

    def direction(backward: bool) -> Pass:
        layers = repetitions[backward] * layers_per_unit
        return Pass(whole[backward] * (1 / layers) if layers else None, whole[backward])

    total = clock.times(clock.entry)
    return Step(
        kind="modelled",
        forward=direction(False),
        backward=direction(True) if True in repetitions else None,
        outside=total + (whole[False] + whole[True]) * -1,
        total=total,
    )
