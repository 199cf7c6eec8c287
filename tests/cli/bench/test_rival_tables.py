"""A contest as a table: figures where there are some, reasons where there are none."""

from rich.console import Console
from support.rivals import make_task

from moe_jax.bench.rivals.result import Contest
from moe_jax.bench.rivals.row import Row
from moe_jax.cli.bench.rival_tables import rival_line, rival_table

ROWS = [
    Row(
        *("moe_jax", "random", "timed"),
        **{"seconds": 0.01, "spread_s": 0.0001, "flops": 4e12, "bound_s": 0.004, "tokens": 100},
        **{"peak_bytes": 3 * 2**30, "dropped": 0, "padded": 12, "error": 0.004},
    ),
    Row("torch", "random", "timed", "a note", seconds=0.015, flops=4e12),
    Row("jax", "all", "skipped", "runs on gpu only"),
]


def printed():
    console = Console(width=220)
    with console.capture() as capture:
        console.print(rival_table(Contest.of(make_task(), ROWS)))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_figures_stand_beside_their_bound_and_ours():
    lines = printed()
    ours = "random moe_jax 10 1.0% 1.00 x 1e+04 400 40.0% 3.00 0 12 4.0e-03"
    assert ours in lines
    assert any(line.startswith("random torch 15 0.0% 1.50 x") for line in lines)
    assert any("unknown unknown not counted not counted a note" in line for line in lines)


def test_who_has_no_figures_has_a_reason():
    assert "all jax skipped: runs on gpu only" in printed()
    assert rival_line(ROWS[2]) == "all, jax: skipped: runs on gpu only"
    assert rival_line(ROWS[0]) == "random, moe_jax: 10 ms, 400 TFLOP/s"
