"""A profile as tables: ms of a step, what was measured beside what a plan compiled."""

from rich.table import Table

from moe_jax.cli.shared.tables import headed_table
from moe_jax.planner.report.figures import Times
from moe_jax.training.reporting.trace.measured import Profile


def kinds_table(profile: Profile, steps: int, planned: Times | None) -> Table:
    """Return where a step's time goes.

    Args:
        profile: of `steps` steps.
        steps: of training.
        planned: of one step; None without a plan.
    """
    compiled = ("compiled ms",) if planned else ()
    table = headed_table("A step", "what", "measured ms", "of the step", *compiled)
    for name, seconds in _lines(profile):
        cells = [name, f"{seconds / steps * 1e3:.4g}", f"{seconds / profile.total_s:.1%}"]
        if planned:
            cells.append(_planned_ms(name, planned))
        table.add_row(*cells)
    return table


def collective_times_table(profile: Profile, steps: int) -> Table:
    """Return each kind of collective: busy, hidden and exposed.

    Args:
        profile: of `steps` steps.
        steps: of training.
    """
    table = headed_table(
        "Collectives of a step (measured)",
        *("what", "kernels", "busy ms", "hidden ms", "exposed ms", "hidden"),
    )
    for found in profile.collectives:
        times = (found.busy_s, found.hidden_s, found.exposed_s)
        table.add_row(
            found.kind,
            f"{found.count / steps:.4g}",
            *(f"{seconds / steps * 1e3:.4g}" for seconds in times),
            f"{found.hidden_s / found.busy_s:.1%}",
        )
    return table


def _lines(profile: Profile) -> list[tuple[str, float]]:
    return [
        *profile.kinds.items(),
        ("exposed collectives", profile.exposed_s),
        ("idle", profile.idle_s),
        ("total", profile.total_s),
    ]


def _planned_ms(name: str, planned: Times) -> str:
    """Return what a plan has under the same name; XLA's own attention is among its matmuls."""
    seconds = {
        "matmul": planned.matmul_s,
        "attention": planned.attention_s,
        # A plan does not tell kinds of other compute apart.
        "elementwise, copies": planned.other_s,
        "exposed collectives": planned.exposed_comm_s,
        "total": planned.total_s,
    }
    return f"{seconds[name] * 1e3:.4g}" if name in seconds else ""
