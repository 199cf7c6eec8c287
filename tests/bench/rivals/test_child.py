"""In a contestant's process: checked, timed, and no failure of one case ends the others."""

import jax.numpy as jnp
import pytest
from support.rivals import make_task

from moe_jax.bench.rivals import child
from moe_jax.bench.rivals.child import answer, is_out_of_memory, rows_of
from moe_jax.bench.rivals.contestants import ORACLE, Contestant
from moe_jax.bench.rivals.trial import JaxTrial

CASES = ("right", "wrong", "raises", "too large")


def prepare(task, case):
    def call():
        return {"y": jnp.ones(3)}

    def bad():
        if case == "raises":
            raise ValueError("no such kernel\nsecond line")
        if case == "too large":
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 GiB")
        return {"y": jnp.ones(3) * (2.0 if case == "wrong" else 1.0)}

    return JaxTrial(call if task.contestant == ORACLE else bad, lambda: {"dropped": 7}, "a note")


@pytest.fixture
def task_of_one(monkeypatch, tmp_path):
    contestant, oracle = (
        Contestant(name, "layer", "jax", (), ("cpu",), prepare) for name in ("one", ORACLE)
    )
    monkeypatch.setattr(child, "contestants", lambda *_: (contestant,))
    monkeypatch.setattr(child, "oracle_of", lambda *_: oracle)
    task = make_task(contestant="one", cases=CASES, folder=str(tmp_path))
    oracles = list(rows_of(make_task(contestant=ORACLE, cases=CASES, folder=str(tmp_path))))
    assert [row.outcome for row in oracles] == ["timed"] * 4
    return task


def test_what_came_of_each_case(task_of_one):
    right, wrong, raises, large = rows_of(task_of_one)
    assert (right.outcome, right.reason, right.dropped) == ("timed", "a note", 7)
    assert right.seconds > 0
    assert (wrong.outcome, wrong.error, wrong.seconds) == ("wrong", pytest.approx(1.0), 0)
    assert "relative error of y: 1.00e+00" in wrong.reason
    assert (raises.outcome, raises.reason) == ("failed", "ValueError: no such kernel")
    assert large.outcome == "out of memory"


def test_rows_are_printed_where_a_parent_finds_them(task_of_one, capsys):
    answer(task_of_one.dumps())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(child.MARK) for line in lines)


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("RESOURCE_EXHAUSTED: ...", True),
        ("no kernel", False),
    ],
)
def test_frameworks_words_for_full_memory(text, is_it):
    assert is_out_of_memory(text) == is_it
