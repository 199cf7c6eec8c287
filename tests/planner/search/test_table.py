"""A search as text."""

from rich.console import Console
from support.planner.hand_finals import finals, small_search

from moe_jax.planner.search.table import finals_table, search_summary


def test_every_reason_for_a_refusal_has_its_line():
    first, *lines = search_summary(small_search()).splitlines()
    assert first.startswith(f"{small_search().considered} layouts of 1 x 4 H200")
    assert [int(line.split()[0]) for line in lines] == [r.count for r in small_search().refused]


def test_the_table_shows_modelled_beside_compiled_and_what_was_refused():
    console = Console(width=120)
    with console.capture() as captured:
        console.print(finals_table(finals((100, 3.0), (140, 1.0))))
    text = captured.get()
    for part in ("refused, such as", "compiled", "modelled", "140.0 GiB too large", "1.25"):
        assert part in text
