"""A bar on a terminal, plain lines elsewhere, silence on processes other than 0."""

import io
import re

import jax
from rich.console import Console
from support.report_cases import make_step_report

from moe_jax.training.reporting.progress import Progress


def show(console, **options):
    with Progress(100, console=console, **options) as progress:
        progress.note("compiled the training step in 3.0 s")
        progress.report(make_step_report(step=10))
        progress.note("saved checkpoint 10")
        progress.report(make_step_report(step=20))
    return console.file.getvalue()


def test_plain_lines_are_never_wrapped():
    text = show(Console(file=io.StringIO(), width=40))
    assert text.splitlines() == [
        "compiled the training step in 3.0 s",
        make_step_report(step=10).to_line(),
        "saved checkpoint 10",
        make_step_report(step=20).to_line(),
    ]


def test_terminal_shows_a_bar_the_latest_numbers_and_every_note():
    console = Console(file=io.StringIO(), force_terminal=True, width=250, _environ={})
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", show(console))
    assert "20/100" in text
    assert "20%" in text
    assert "ETA 20s" in text
    assert make_step_report(step=20).to_line() in text
    assert "compiled the training step in 3.0 s" in text
    assert "saved checkpoint 10" in text


def test_dumb_terminal_gets_plain_lines():
    environ = {"TERM": "dumb"}
    text = show(Console(file=io.StringIO(), force_terminal=True, width=40, _environ=environ))
    assert len(text.splitlines()) == 4


def test_other_processes_are_silent(monkeypatch):
    for terminal in (True, False):
        assert show(Console(file=io.StringIO(), force_terminal=terminal), is_main=False) == ""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert show(Console(file=io.StringIO())) == ""


def test_notes_with_brackets_are_not_markup():
    console = Console(file=io.StringIO(), force_terminal=True, width=250, _environ={})
    with Progress(100, console=console) as progress:
        progress.note("steps [10, 12] of [bold]runs/x")
    assert "steps [10, 12] of [bold]runs/x" in re.sub(
        r"\x1b\[[0-9;]*m", "", console.file.getvalue()
    )
