"""A contest's figures, with what they were taken on and with."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from moe_jax.bench.machine import PACKAGES
from moe_jax.bench.rivals.row import Row
from moe_jax.bench.rivals.task import Task

_THEIRS = ("torch", "transformers")


@dataclass(frozen=True)
class Contest:
    """All rows of one task; everything is measured."""

    task: Task
    device: str
    date: str
    versions: dict[str, str]
    rows: tuple[Row, ...]

    @staticmethod
    def of(task: Task, rows: Sequence[Row]) -> "Contest":
        """Return the result of a contest that took place here, today.

        Args:
            task: what was asked.
            rows: what came of it.
        """
        device = next((row.device for row in rows if row.device), task.platform)
        packages = (*PACKAGES, *(name for name in _THEIRS if find_spec(name)))
        versions = {package: version(package) for package in packages}
        return Contest(task, device, datetime.date.today().isoformat(), versions, tuple(rows))

    def ratio(self, row: Row) -> float:
        """Return the time over ours in the same case; 0 where there is none of them."""
        ours = [r for r in self.rows if r.contestant == "moe_jax" and r.case == row.case]
        return row.seconds / ours[0].seconds if ours and ours[0].seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, what follows from it included."""
        rows = [row.to_json() | {"ratio": self.ratio(row)} for row in self.rows]
        return asdict(self) | {"kind": "measured", "rows": rows}
