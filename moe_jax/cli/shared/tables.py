"""Tables and numbers as every verb prints them. What is in a table is the verb's business."""

from rich.box import SIMPLE_HEAD
from rich.table import Table


def key_value_table(title: str) -> Table:
    """Return an empty table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=SIMPLE_HEAD)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def headed_table(title: str, *headings: str) -> Table:
    """Return an empty table with named columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def binary(size: float) -> str:
    """Write bytes: "25.96 GiB", "12.0 KiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size:.0f} B"


def decimal(count: float) -> str:
    """Write a count: "35.7 G", "4.53 M", "950"."""
    for unit, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count:.4g}"
