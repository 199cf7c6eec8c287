"""How often each computation of a compiled program runs in one call: loops times their trips.

Branches count as not taken, and the exchange's further rounds as none: balanced routing needs none.
What a branch costs when it is cheapest is `compiled/phases.py`'s business.
"""

import re
from collections import Counter
from collections.abc import Mapping

from moe_jax.errors import UserError
from moe_jax.planner.xla.hlo import HloComputation, HloInstruction, called, op_name
from moe_jax.scopes import FURTHER_ROUNDS

_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")


def trip_count(loop: HloInstruction) -> int | None:
    """Return how often a `while` runs its body; None where XLA could not tell."""
    found = _TRIPS.search(loop.attributes)
    return int(found[1]) if found else None


def trips_in_balance(loop: HloInstruction) -> int:
    """Return how often a `while` runs its body on balanced routing; once where nobody can tell."""
    known = trip_count(loop)
    if known is not None:
        return known
    return 0 if FURTHER_ROUNDS in op_name(loop) else 1


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
    """Count how often each computation runs in one call on balanced routing; 0 in branches."""
    counts: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        counts[name] += times
        for i in module[name].instructions:
            if i.opcode == "while":
                visit(body_of(i), times * trips_in_balance(i))
            elif i.opcode != "conditional":
                for inner in called(i):
                    visit(inner, times)

    visit(entry_of(module), 1)
    return counts
