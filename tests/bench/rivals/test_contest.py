"""A contest: processes that die, hang or are left out are rows; no float32, no contest."""

import json
import subprocess
from dataclasses import asdict

import pytest
from support.rivals import make_task

from moe_jax.bench.rivals import contest
from moe_jax.bench.rivals.amount import Amount
from moe_jax.bench.rivals.child import MARK
from moe_jax.bench.rivals.contest import hold
from moe_jax.bench.rivals.contestants import ORACLE
from moe_jax.bench.rivals.row import Row
from moe_jax.bench.rivals.task import Task
from moe_jax.errors import UserError

CASES = ("balanced", "skewed")


def work(case):
    return Amount(6e12, 0.0, 24, "there is nothing to choose" if case == "senseless" else "")


@pytest.fixture
def processes(monkeypatch):
    """Answers for child processes; contestants without an answer complete all cases."""
    answers, asked = {}, []

    def run(command, *, env, timeout, **_):
        task = Task.loads(command[-1])
        asked.append((task, env))
        if isinstance(answer := answers.get(task.contestant), Exception):
            raise answer
        cases, code, errors = answer or (task.cases, 0, "")
        rows = [Row(task.contestant, c, "timed", seconds=2.0, device="NVIDIA H200") for c in cases]
        lines = [f"{MARK}{json.dumps(asdict(row))}" for row in rows]
        return subprocess.CompletedProcess(command, code, "\n".join(["noise", *lines]), errors)

    monkeypatch.setattr(contest.subprocess, "run", run)
    return answers, asked


def rows(**options):
    return list(hold(make_task(cases=CASES, platform="gpu"), work, **options))


def test_everyone_has_a_row_for_every_case_and_its_bound(processes):
    _, asked = processes
    result = rows()
    assert [task.contestant for task, _ in asked][:2] == [ORACLE, "moe_jax"]
    assert {row.case for row in result} == set(CASES)
    assert len(result) == 2 * (len(asked) - 1)
    assert result[0].tflops == 3.0
    assert result[0].of_bound == pytest.approx(6 / 989.4 / 2)


def test_only_one_framework_may_take_the_device(processes):
    _, asked = processes
    rows()
    environments = {task.contestant: env for task, env in asked}
    assert environments["transformers eager"]["JAX_PLATFORMS"] == "cpu"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in environments["moe_jax"]


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [("Killed", "failed"), ("torch.OutOfMemoryError: CUDA out of memory.", "out of memory")],
)
def test_cases_that_a_process_did_not_live_to_see_are_rows(processes, errors, outcome):
    processes[0]["moe_jax"] = (("balanced",), -9, f"first line\n{errors}")
    timed, dead = rows(only=("moe_jax",))
    assert (timed.outcome, dead.case, dead.outcome) == ("timed", "skewed", outcome)
    assert dead.reason == f"it ended with -9; {errors}"


def test_a_process_that_takes_too_long_is_a_row(processes):
    output = f"{MARK}{json.dumps(asdict(Row('moe_jax', 'balanced', 'timed', seconds=1.0)))}"
    hangs = subprocess.TimeoutExpired("child", 5, output.encode(), b"")
    processes[0]["moe_jax"] = hangs
    timed, dead = rows(only=("moe_jax",), limit_s=5)
    assert timed.outcome == "timed"
    assert (dead.outcome, dead.reason) == ("failed", "it took longer than 5 s; ")


def test_a_case_without_sense_is_skipped_with_its_reason(processes):
    task = make_task(cases=("balanced", "senseless"), platform="gpu")
    first, *others = hold(task, work, ("moe_jax",))
    assert (first.case, first.outcome) == ("senseless", "skipped")
    assert first.reason == "there is nothing to choose"
    assert [row.case for row in others] == ["balanced"]


def test_without_float32_results_nothing_is_timed(processes):
    processes[0][ORACLE] = ((), 1, "no memory")
    with pytest.raises(RuntimeError, match=r"float32 \(balanced\): failed, it ended with 1"):
        rows()


def test_an_unknown_name_is_refused(processes):
    with pytest.raises(UserError, match="no contestant is called 'tensorflow': there are moe_jax"):
        rows(only=("tensorflow",))
