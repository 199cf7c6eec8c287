"""Profiling of some steps of a run, and the summary that follows."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.training.reporting import profiler as module
from moe_jax.training.reporting.profiler import Profiler


@pytest.fixture
def traces(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda where: calls.append(where))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def run(profiler, steps):
    for step in range(steps):
        profiler.before(step)
        profiler.after(step, jnp.zeros(()))
    profiler.close()


def test_the_steps_named_are_profiled_and_summed_up(traces, monkeypatch, tmp_path):
    notes = []
    monkeypatch.setattr(module, "summarize_profile", lambda where, steps: [f"{where}: {steps}"])
    run(Profiler(tmp_path, (2, 4), notes.append), 8)
    assert traces == [str(tmp_path), "stop"]
    assert notes == [f"{tmp_path}: 3"]


def test_a_run_that_ends_early_is_stopped_without_a_summary(traces, tmp_path):
    notes = []
    run(Profiler(tmp_path, (2, 40), notes.append), 8)
    assert traces == [str(tmp_path), "stop"]
    assert notes == []


def test_without_steps_nothing_is_profiled(traces, tmp_path):
    run(Profiler(tmp_path, (), print), 8)
    assert traces == []


def test_a_profile_that_cannot_be_read_does_not_end_the_run(traces, tmp_path):
    notes = []
    run(Profiler(tmp_path, (2, 4), notes.append), 8)
    assert f"the profile in {tmp_path} could not be summed up" in notes[0]
