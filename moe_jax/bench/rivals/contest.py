"""A contest: the float32 results first, then one contestant after another, each in its process."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_jax.bench.rivals.amount import Amount
from moe_jax.bench.rivals.child import MARK, is_out_of_memory
from moe_jax.bench.rivals.contestants import ORACLE, Contestant, contestants, oracle_of
from moe_jax.bench.rivals.row import Row
from moe_jax.bench.rivals.task import Task
from moe_jax.errors import UserError
from moe_jax.hardware.gpus import gpu_by_device_kind
from moe_jax.mesh.xla_options import MEMORY_FRACTION

#: Seconds for one contestant with all its cases; a rival that compiles for ever is a row.
LIMIT_S = 240.0


def hold(
    task: Task,
    work: Callable[[str], Amount],
    only: tuple[str, ...] = (),
    limit_s: float = LIMIT_S,
) -> Iterator[Row]:
    """Yield a row per contestant and case, as they come.

    Args:
        task: what each is asked, but for its name and the folder.
        work: of a case.
        only: names to which the contest is limited; () is everyone.
        limit_s: seconds that one contestant may take.

    Raises:
        UserError: a name that nobody has.
        RuntimeError: the float32 results could not be computed, without which nothing is checked.
    """
    taking_part = contestants(task.what, task.platform)
    _require_known(only, [contestant.name for contestant in taking_part])
    cases = tuple(case for case in task.cases if not work(case).why_not)
    with tempfile.TemporaryDirectory() as folder:
        for case, reason in _refused(task.cases, work):
            yield Row("everyone", case, "skipped", reason)
        task = replace(task, folder=folder, cases=cases)
        oracle = oracle_of(task.what)
        for row in _run(oracle, replace(task, contestant=ORACLE), limit_s) if cases else ():
            if row.outcome != "timed":
                raise RuntimeError(f"results in float32 ({row.case}): {row.outcome}, {row.reason}")
        for contestant in taking_part:
            if only and contestant.name not in only:
                continue
            if reason := contestant.why_not(task.platform):
                yield Row(contestant.name, "all", "skipped", reason)
                continue
            for row in _run(contestant, replace(task, contestant=contestant.name), limit_s):
                given, gpu = work(row.case), gpu_by_device_kind(row.device)
                figures = {"flops": given.flops, "bound_s": given.bound_s(gpu)}
                yield replace(row, **figures, tokens=given.tokens)


def _require_known(only: tuple[str, ...], names: list[str]) -> None:
    if unknown := [name for name in only if name not in names]:
        raise UserError(f"no contestant is called {unknown[0]!r}: there are {', '.join(names)}")


def _refused(cases: tuple[str, ...], work: Callable[[str], Amount]) -> Iterator[tuple[str, str]]:
    for case in cases:
        if reason := work(case).why_not:
            yield case, reason


def _run(contestant: Contestant, task: Task, limit_s: float) -> Iterator[Row]:
    """Yield the rows of one process, and one for each case that it did not live to see."""
    command = [sys.executable, "-m", "moe_jax.bench.rivals.child", task.dumps()]
    environment = {**os.environ, **_environment(contestant, task)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
        output, errors, ending = done.stdout, done.stderr, f"it ended with {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        output, errors = (_text(part) for part in (expired.stdout, expired.stderr))
        ending = f"it took longer than {limit_s:.0f} s"
    left = list(task.cases)
    for line in output.splitlines():
        if line.startswith(MARK):
            row = Row(**json.loads(line[len(MARK) :]))
            left.remove(row.case)
            yield row
    outcome = "out of memory" if is_out_of_memory(errors) else "failed"
    last = (errors.strip().splitlines() or [""])[-1][:300]
    for case in left:
        yield Row(contestant.name, case, outcome, f"{ending}; {last}")


def _text(part: Any) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else part or ""


def _environment(contestant: Contestant, task: Task) -> dict[str, str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "false"}
    if contestant.framework == "torch" or task.platform == "cpu":
        # With torch, JAX is imported for the shapes only, and must not take the GPU.
        return {**quiet, "JAX_PLATFORMS": "cpu"}
    return {
        **quiet,
        "XLA_PYTHON_CLIENT_MEM_FRACTION": str(MEMORY_FRACTION),
        # All routings are one program.
        "JAX_COMPILATION_CACHE_DIR": str(Path(task.folder, "programs")),
    }
