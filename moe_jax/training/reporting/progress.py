"""Progress on the terminal: a bar with the latest numbers, or plain lines where nobody watches.

Which numbers a line holds is `step_report.py`; files are `writers.py`.
"""

import sys
from types import TracebackType
from typing import Self

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from moe_jax.training.reporting.step_report import StepReport, duration


class Progress:
    """Shows a run while it lasts; a context manager.

    On a terminal: a bar and below it the line of the latest report, with notes scrolling by
    above. Elsewhere: each report and note is a line. On processes other than 0: nothing.

    Args:
        total: steps of the run.
        is_main: whether this is process 0; None asks JAX.
        console: where to; None is standard error.
    """

    def __init__(
        self, total: int, is_main: bool | None = None, console: Console | None = None
    ) -> None:
        is_main = jax.process_index() == 0 if is_main is None else is_main
        self._console = console or Console(file=sys.stderr)
        self._silent = not is_main
        self._live: Live | None = None
        # A dumb terminal cannot move its cursor.
        if is_main and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Bar(
                TextColumn("training"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                TextColumn("ETA {task.fields[eta]}"),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("train", total=total, eta="?")
            self._live = Live(self._bar, console=self._console, refresh_per_second=4)

    def report(self, report: StepReport) -> None:
        """Show a step."""
        if self._live is None:
            self._print(report.to_line())
            return
        self._bar.update(self._task, completed=report.step, eta=duration(report.eta_seconds))
        self._live.update(Group(self._bar, Text(report.to_line())))

    def note(self, text: str) -> None:
        """Show an event that is no step, such as "saved checkpoint 50"."""
        self._print(text)

    def _print(self, text: str) -> None:
        if self._silent:
            return
        if self._live is not None:
            self._console.print(Text(text))
            return
        # Not through rich, which would wrap the line at the width it guesses for a file.
        print(text, file=self._console.file, flush=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
