"""A bar of bytes and their rate on standard error, while files are written. Nothing else."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class ByteProgress:
    """Shows bytes done of bytes in all; a context manager, called with both.

    Nothing shows before the first call: what comes before it may still refuse.

    Where nobody watches, one line at the end.

    Args:
        what: the verb beside the bar.
        console: where to; None is standard error.
    """

    def __init__(self, what: str, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console or Console(file=sys.stderr),
        )
        self._task = self._bar.add_task(what, total=None)
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Show so many bytes of so many."""
        if not self._shown:
            self._shown = True
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._shown:
            self._bar.stop()
