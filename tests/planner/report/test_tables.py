"""Tables of a plan: lines, units and kinds."""

from rich.console import Console

from moe_jax.planner.report.figures import LinkBytes, Memory, MemoryPart, Rows
from moe_jax.planner.report.tables import link_bytes_table, memory_table


def text_of(table) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_small_memory_is_in_mib_and_what_is_missing_is_said():
    parts = (MemoryPart("parameters", 3 * 2**20), MemoryPart("cache", 2**20))
    text = text_of(memory_table(Memory("modelled", 4 * 2**20, 4 * 2**20, 3 * 2**20, parts)))
    for part in ("MiB", "3.00", "75.0%", "MISSING, it does not fit", "modelled"):
        assert part in text
    assert "compiled" not in text


def test_padded_rows_are_a_share_of_all():
    wire = LinkBytes("compiled", 1.0, 2.0, 1.0, 2.0, None, Rows("modelled", 300, 100), None)
    text = text_of(link_bytes_table(wire))
    assert "100 of 400 (25.0%)" in text
    # No bound where no token is exchanged, no adapter on one host.
    assert "lower bound" not in text
    assert "adapter" not in text
