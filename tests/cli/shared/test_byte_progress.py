"""The bar of bytes: silent before the first call, one line at the end where nobody watches."""

import io

from rich.console import Console

from moe_jax.cli.shared.byte_progress import ByteProgress


def progress():
    console = Console(file=io.StringIO(), width=100)
    return ByteProgress("importing", console), console.file


def test_nothing_shows_before_the_first_call():
    bar, said = progress()
    with bar:
        assert said.getvalue() == ""
    assert said.getvalue() == ""


def test_the_end_shows_what_was_done_and_how_much():
    bar, said = progress()
    with bar as report:
        report(1000, 4000)
        report(4000, 4000)
    (line,) = [line for line in said.getvalue().splitlines() if line.strip()]
    assert line.startswith("importing")
    assert "4.0/4.0 kB" in line


def test_an_error_leaves_the_terminal_in_order():
    bar, said = progress()
    try:
        with bar as report:
            report(1000, 4000)
            raise KeyError("gone")
    except KeyError:
        pass
    assert "1.0/4.0 kB" in said.getvalue()
    assert bar._bar.live.is_started is False
