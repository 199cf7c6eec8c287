"""One contestant, in this process alone: checked, then timed, a line of JSON per case.

`python -m moe_jax.bench.rivals.child REQUEST`. Who starts it, and reads it, is `contest.py`.
"""

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from moe_jax.bench.rivals.contestants import ORACLE, Contestant, contestants, oracle_of
from moe_jax.bench.rivals.row import Outcome, Row
from moe_jax.bench.rivals.sample import excess
from moe_jax.bench.rivals.task import Task
from moe_jax.bench.rivals.trial import Trial

#: Before each line that is meant for the parent: libraries print, too.
MARK = "row: "


def answer(text: str) -> None:
    """Trial the task and print its rows."""
    for row in rows_of(Task.loads(text)):
        print(f"{MARK}{json.dumps(asdict(row))}", flush=True)


def rows_of(task: Task) -> Iterator[Row]:
    """Yield what came of each case; one that fails does not end the others.

    Args:
        task: of a contestant, or of the oracle, whose cases have no times.
    """
    contestant = _named(task)
    for case in task.cases:
        try:
            trial = contestant.prepare(task, case)
            if contestant.name == ORACLE:
                values: dict[str, Any] = dict(trial.values())
                np.savez(_file_of(task, case), **values)
                row = Row(ORACLE, case, "timed")
            else:
                row = _row(task, case, trial)
        # Whatever a rival's code raises is a row of the table.
        except Exception as error:
            row = Row(task.contestant, case, *_failure(error))
        yield row
        trial = None
        gc.collect()


def _file_of(task: Task, case: str) -> Path:
    """Return where the float32 results of a case are."""
    return Path(task.folder, f"{case}.npz")


def _named(task: Task) -> Contestant:
    known = (*contestants(task.what, task.platform), oracle_of(task.what))
    return next(c for c in known if c.name == task.contestant)


def _row(task: Task, case: str, trial: Trial) -> Row:
    with np.load(_file_of(task, case)) as wanted:
        name, error, bound = excess(trial.values(), wanted, task.dtype)
    if not error < bound:
        reason = f"relative error of {name}: {error:.2e}, where rounding explains {bound:.1e}"
        return Row(task.contestant, case, "wrong", reason, error=error)
    counts, peak_bytes = trial.counts(), trial.peak_bytes()
    timing = trial.time(task.repeats)
    return Row(
        task.contestant,
        case,
        "timed",
        trial.note,
        timing.seconds,
        timing.spread_s,
        device=trial.device(),
        peak_bytes=peak_bytes,
        error=error,
        **counts,
    )


def _failure(error: Exception) -> tuple[Outcome, str]:
    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return ("out of memory" if is_out_of_memory(str(error)) else "failed"), text


def is_out_of_memory(text: str) -> bool:
    """Return whether an error's text says that memory ran out, in any framework's words."""
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


if __name__ == "__main__":
    answer(sys.argv[1])
