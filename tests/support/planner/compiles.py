"""Compiled programs as tests ask for them: one at a time, and what their text says."""

from moe_jax.planner.compile.jobs import Compiled, CompileJob, compile_all
from moe_jax.planner.compile.target import Target
from moe_jax.planner.xla.async_pairs import AsyncPair, async_pairs
from moe_jax.planner.xla.hlo import Collective, collectives_of, parse_hlo
from moe_jax.planner.xla.overlap import OverlapLost


def compile_for(target: Target, job: CompileJob) -> Compiled:
    """Compile one job."""
    return compile_all(target, [job])[0]


def collectives(hlo_text: str) -> tuple[Collective, ...]:
    """Return every collective of a scheduled module, an async pair counted once."""
    return tuple(
        c for computation in parse_hlo(hlo_text).values() for c in collectives_of(computation)
    )


def require_async(
    hlo_text: str, kind: str = "all-to-all", bare: int = 0, min_bytes: int = 0
) -> tuple[AsyncPair, ...]:
    """Demand that collectives are asynchronous and have matmuls between start and done.

    Branches (overflow rounds) are left out: they rarely run and have nothing to hide behind.

    Args:
        hlo_text: of the whole program.
        kind: the kind of collective.
        bare: how many per computation may block, or have no matmul beside them. The first
            dispatch and the last combine of a forward layer have nothing left to hide behind.
        min_bytes: smaller collectives are left out; elementwise work is enough to hide them.

    Returns:
        The pairs looked at.

    Raises:
        OverlapLost: naming those that do not comply; or when there are none to look at.
    """
    pairs = tuple(
        p
        for p in async_pairs(parse_hlo(hlo_text), kind)
        if not p.in_branch and p.result_bytes >= min_bytes
    )
    if not pairs:
        raise OverlapLost(f"the program has no {kind} outside branches")
    for computation in dict.fromkeys(p.computation for p in pairs):
        mine = [p for p in pairs if p.computation == computation]
        alone = [p for p in mine if not p.can_hide]
        if len(alone) > bare:
            names = ", ".join(p.start + ("" if p.is_async else " (blocks)") for p in alone)
            raise OverlapLost(
                f"{computation}: {len(alone)} of {len(mine)} {kind} have no matmul beside them: "
                f"{names}; at most {bare} may"
            )
    return pairs
