"""How often each computation of a compiled program runs in one call: loops times their trips.

Branches count as not taken: what a program does on balanced routing needs none of the exchange's
further rounds. What a branch costs when it is cheapest is `compiled/phases.py`'s business.
"""

import re
from collections import Counter
from collections.abc import Mapping

from moe_jax.errors import UserError
from moe_jax.planner.xla.hlo import HloComputation, HloInstruction, called

_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")


def trip_count(loop: HloInstruction) -> int | None:
    """Return how often a `while` runs its body; None where XLA could not tell."""
    found = _TRIPS.search(loop.attributes)
    return int(found[1]) if found else None


def body_of(loop: HloInstruction) -> str:
    """Return the name of the computation that a `while` repeats."""
    found = _BODY.search(loop.attributes)
    if found is None:
        raise UserError(f"{loop.name} is a while without a body: {loop.attributes[:80]!r}")
    return found[1]


def entry_of(module: Mapping[str, HloComputation]) -> str:
    """Return the name of the computation that nobody calls."""
    inner = {name for c in module.values() for i in c.instructions for name in called(i)}
    (entry,) = module.keys() - inner
    return entry


def executions(module: Mapping[str, HloComputation]) -> Counter[str]:
    """Count how often each computation runs in one call of the program; 0 in branches.

    A loop whose number of trips is unknown counts once.
    """
    counts: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        counts[name] += times
        for i in module[name].instructions:
            if i.opcode == "while":
                visit(body_of(i), times * (trip_count(i) or 1))
            elif i.opcode != "conditional":
                for inner in called(i):
                    visit(inner, times)

    visit(entry_of(module), 1)
    return counts
