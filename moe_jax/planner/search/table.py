"""A search as text: what was excluded and why, and the compiled finalists, ranked.

Nothing is computed here; see `search.py` and `finals.py`.
"""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moe_jax.mesh.xla_options import MEMORY_FRACTION
from moe_jax.planner.search.finals import Finalist, Finals
from moe_jax.planner.search.layouts import describe
from moe_jax.planner.search.search import TYPICAL_SKEW, Search

_GIB = 2**30


def search_summary(found: Search) -> str:
    """Return what was looked at, and how many layouts each rule excluded."""
    target = found.target
    lines = [
        f"{found.considered} layouts of {target.hosts} x {target.devices_per_host} "
        f"{target.gpu.title} for {found.mode}: {len(found.candidates)} fit, {found.too_large} need "
        f"more than {MEMORY_FRACTION:.0%} of the memory (modelled; busiest expert at "
        f"{1 + TYPICAL_SKEW:g} x the mean load)"
    ]
    lines += [f"  {r.count} refused, such as: {r.example}" for r in found.refused]
    return "\n".join(lines)


def finals_table(finals: Finals) -> Group:
    """Return the compiled layouts beside their arithmetic, best first."""
    table = Table(title="layouts, fastest first", title_justify="left")
    for heading in ("", "layout", "memory\nmodelled", "memory\ncompiled"):
        table.add_column(heading, justify="left" if heading == "layout" else "right")
    for heading in ("step\nmodelled", "step, compiled\nschedule", "tokens/s\nmodelled"):
        table.add_column(heading, justify="right")
    for rank, finalist in enumerate(finals.ranked, start=1):
        table.add_row(str(rank), *_cells(finalist))
    note = (
        "memory per device; compiled: XLA's buffer assignment; modelled: our arithmetic; the "
        "compiled schedule's times are XLA's model, with our costs where it has none"
    )
    return Group(Text(search_summary(finals.search)), table, Text(note, style="dim"))


def _cells(finalist: Finalist) -> tuple[str, ...]:
    estimate, plan = finalist.candidate.estimate, finalist.plan
    fits = "" if finalist.fits else " too large"
    predicted = plan.predicted
    return (
        describe(finalist.candidate.config),
        f"{estimate.memory.peak_bytes / _GIB:.1f} GiB",
        f"{plan.memory.peak_bytes / _GIB:.1f} GiB{fits}",
        _seconds(estimate.step.total_s),
        _seconds(predicted.step_s) if predicted else "no times",
        f"{(predicted or estimate.predicted).tokens_per_s:,.0f}",
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
