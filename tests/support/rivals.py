"""Requests of contests that take seconds on a CPU."""

from dataclasses import replace

from moe_jax.bench.rivals.task import Task

_TINY = Task(
    contestant="moe_jax",
    what="layer",
    shape="tiny",
    cases=("balanced",),
    dtype="float32",
    platform="cpu",
    repeats=2,
    tokens=24,
    length=16,
    layers=2,
    overrides=(),
    folder="",
)


def make_task(**changes) -> Task:
    """Returns a task of a tiny layer, with changes."""
    return replace(_TINY, **changes)
