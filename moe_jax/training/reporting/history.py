"""Reads `metrics.jsonl` back: a run's metrics by name, one value a step.

Writing it is `writers.py`; what a record holds is decided by `step_report.py` and the loop.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from moe_jax.errors import UserError
from moe_jax.workdir import METRICS


def read_history(workdir: Path) -> dict[str, np.ndarray]:
    """Return every metric of a run, those from before it was resumed included.

    Args:
        workdir: of the run; without metrics in it there is no history.

    Returns:
        Arrays by name, all with one entry for each step of `"step"`, in its order: [steps], or
        [steps, layers] for what is noted of each MoE layer. NaN stands where a step has no value,
        such as a validation loss between validations.

    Raises:
        UserError: the file holds something else than metrics.
    """
    path = workdir / METRICS
    if not path.is_file():
        return {}
    rows: dict[int, dict[str, Any]] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            # A last line without its end is what a killed process was writing.
            if line.endswith(b"\n"):
                record = _record(line, path, number)
                rows.setdefault(record["step"], {}).update(record)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    in_order = [rows[step] for step in sorted(rows)]
    return {name: _column([row.get(name) for row in in_order]) for name in names}


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        return record | {"step": int(record["step"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number} is no record with a step: {line[:80]!r}; remove the line"
        ) from error


def _column(values: list[Any]) -> np.ndarray:
    """Return an array of one entry a step."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in known):
        return _of_layers(values)
    if any(isinstance(value, str) for value in known):
        return np.array(["" if value is None else value for value in values])
    if len(known) == len(values) and all(isinstance(value, int) for value in known):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _of_layers(values: Iterable[Any]) -> np.ndarray:
    rows = [value or [] for value in values]
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, items in zip(table, rows, strict=True):
        row[: len(items)] = [np.nan if item is None else item for item in items]
    return table
