"""Tables and units, as they come out on a terminal."""

import io

import pytest
from rich.console import Console

from moe_jax.cli.shared.tables import binary, decimal, headed_table, key_value_table


def lines_of(table, width=60):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_headings_stand_over_their_columns():
    table = headed_table("Title", "name", "value")
    table.add_row("steps", "10")
    title, headings, _, row = lines_of(table)
    assert title == "Title"
    assert headings.index("value") == row.index("10")


def test_values_are_folded_and_names_are_not():
    table = key_value_table("Title")
    table.add_row("a rather long name", "x" * 60)
    lines = lines_of(table, width=40)
    assert lines[1].split()[:4] == ["a", "rather", "long", "name"]
    assert sum(line.count("x") for line in lines) == 60


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (binary, 1023, "1023 B"),
        (binary, 2**20 * 3 // 2, "1.5 MiB"),
        (binary, 26 * 2**30, "26 GiB"),
        (decimal, 950, "950"),
        (decimal, 35_696_807_936, "35.7 G"),
        (decimal, 4.7e16, "47 P"),
    ],
)
def test_units(function, value, text):
    assert function(value) == text
