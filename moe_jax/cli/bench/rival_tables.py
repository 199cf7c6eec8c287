"""A contest as a table: every figure beside its bound, and who has none beside the reason."""

from rich.table import Table

from moe_jax.bench.rivals.result import Contest
from moe_jax.bench.rivals.row import Row
from moe_jax.cli.shared.tables import headed_table


def rival_table(result: Contest) -> Table:
    """Return all contestants, case by case, each beside ours."""
    task = result.task
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    case = "routing" if task.what == "layer" else "batch"
    table = headed_table(
        f"{task.what} of {task.shape}, {task.dtype}, forward and backward: "
        f"{result.device}, {result.date}, {versions}",
        *(case, "contestant", "ms (measured)", "spread", "of ours", "tokens/s", "TFLOP/s"),
        *("of bound", "peak GiB", "dropped", "padded", "error", "note"),
    )
    cases = dict.fromkeys(row.case for row in result.rows)
    for row in sorted(result.rows, key=lambda row: [*cases].index(row.case)):
        table.add_row(row.case, row.contestant, *_figures(row, result), _note(row))
    return table


def rival_line(row: Row) -> str:
    """Return the line that shows a row as soon as it is there."""
    if row.outcome != "timed":
        return f"{row.case}, {row.contestant}: {_note(row)}"
    return f"{row.case}, {row.contestant}: {row.seconds * 1e3:.4g} ms, {row.tflops:.4g} TFLOP/s"


def _figures(row: Row, result: Contest) -> tuple[str, ...]:
    error = f"{row.error:.1e}" if row.error is not None else ""
    if row.outcome != "timed":
        return (*[""] * 9, error)
    return (
        f"{row.seconds * 1e3:.4g}",
        f"{row.spread_s / row.seconds:.1%}",
        f"{ratio:.2f} x" if (ratio := result.ratio(row)) else "",
        f"{row.tokens_per_s:.4g}",
        f"{row.tflops:.4g}",
        f"{row.of_bound:.1%}" if row.bound_s else "unknown",
        "unknown" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}",
        *("not counted" if n is None else str(n) for n in (row.dropped, row.padded)),
        error,
    )


def _note(row: Row) -> str:
    if row.outcome == "timed":
        return row.reason
    return f"{row.outcome}: {row.reason}"
