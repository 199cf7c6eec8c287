"""Saves that fail or are killed: the error surfaces, and an earlier or the new step restores."""

import random
import time

import jax
import pytest
from support.checkpoint_cases import (
    INFO,
    abstract,
    assert_same_bits,
    make_state,
    mesh_of,
    running,
    two_processes,
)

from moe_jax.checkpoint import CheckpointError, Checkpoints, directory, manifest


@pytest.fixture
def mesh():
    return mesh_of(8)


def no_space(*args, **kwargs):
    raise OSError("No space left on device")


@pytest.mark.parametrize("surface", ["save", "wait", "close", "restore"])
def test_background_error_surfaces_at_the_next_call(tmp_path, mesh, monkeypatch, surface):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, "build", no_space)
    checkpoints.save(1, make_state(1, mesh), INFO)
    calls = {
        "save": lambda: checkpoints.save(2, make_state(2, mesh), INFO),
        "wait": checkpoints.wait,
        "close": checkpoints.close,
        "restore": lambda: checkpoints.restore(abstract(make_state(1, mesh))),
    }
    with pytest.raises(CheckpointError, match=r"step 1 .*failed.*No space left"):
        calls[surface]()
    assert checkpoints.last_step is None
    checkpoints.close()


def test_orbax_write_error_surfaces_too(tmp_path, mesh, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        wait = checkpoints._store.wait

        def fail():
            wait()
            raise TimeoutError("barrier")

        monkeypatch.setattr(checkpoints._store, "wait", fail)
        checkpoints.save(1, make_state(1, mesh), INFO)
        with pytest.raises(CheckpointError, match="TimeoutError: barrier"):
            checkpoints.wait()
        assert checkpoints.steps() == []


def test_sync_save_raises_itself(tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(manifest, "build", no_space)
    with (
        Checkpoints(tmp_path, mode="sync") as checkpoints,
        pytest.raises(CheckpointError, match="No space left"),
    ):
        checkpoints.save(1, make_state(1, mesh), INFO)


def test_saving_works_again_after_a_failure(tmp_path, mesh, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "build", no_space)
            checkpoints.save(1, make_state(1, mesh), INFO)
            with pytest.raises(CheckpointError):
                checkpoints.wait()
        checkpoints.save(1, make_state(1, mesh), INFO)
        checkpoints.wait()
        assert checkpoints.steps() == [1]
        assert checkpoints.rejected() == []


@pytest.mark.parametrize(
    ("module", "name"),
    [(manifest, "build"), (manifest, "write"), (directory, "commit"), (directory, "prune")],
)
def test_the_last_good_one_outlives_a_save_that_stops_anywhere(
    tmp_path, mesh, monkeypatch, module, name
):
    """`keep=1`, so the new step's completion is what permits deleting the old one."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make_state(1, mesh), INFO)
    checkpoints.wait()
    monkeypatch.setattr(module, name, no_space)
    checkpoints.save(2, make_state(2, mesh), INFO)
    with pytest.raises(CheckpointError):
        checkpoints.close()
    with Checkpoints(tmp_path) as fresh:
        restored = fresh.restore(abstract(make_state(0, mesh)))
    assert restored.step == (2 if name == "prune" else 1)
    assert_same_bits(restored.state, make_state(restored.step, mesh))


def kill_after(worker, event, delay):
    """Kills `delay` seconds after the worker first reported `event`; the steps it reported."""
    lines = []
    while not lines or not lines[-1].startswith(event):
        lines.append(worker.stdout.readline())
        assert lines[-1], "the worker ended by itself"
    time.sleep(delay)
    worker.kill()
    lines += worker.stdout.read().splitlines()
    steps = {"started": [0], "complete": [0]}
    for line in lines:
        word, number = line.split()
        steps[word].append(int(number))
    return max(steps["started"]), max(steps["complete"])


@pytest.mark.slow
def test_kill_9_while_saving_leaves_the_previous_or_the_new_step(tmp_path, mesh):
    """Each round resumes in the directory that the killed one left."""
    root = tmp_path / "run"
    rng = random.Random(0)
    previous = 0
    for event in ["started", *["complete"] * 5]:
        with running(tmp_path / "log", "saving_worker.py", [root]) as (worker,):
            started, complete = kill_after(worker, event, rng.uniform(0.0, 0.3))
        with Checkpoints(root) as checkpoints:
            restored = checkpoints.restore(abstract(make_state(0, mesh)))
        step = 0 if restored is None else restored.step
        assert max(previous, complete, started - 2) <= step <= started
        if restored is not None:
            assert_same_bits(restored.state, make_state(step, mesh))
            assert restored.info == {"step": step}
        previous = step
    assert previous >= 15


@pytest.mark.slow
def test_two_processes_save_and_restore_together_and_one_process_reads_it(tmp_path, mesh):
    own, other = tmp_path / "two", tmp_path / "one"
    with Checkpoints(other) as checkpoints:
        checkpoints.save(5, make_state(5, mesh), INFO)
    log = tmp_path / "log"
    with running(log, "two_process_worker.py", *two_processes(own, other)) as workers:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    assert all(output.endswith("ok\n") for output in outputs), log.read_text()
    assert [worker.returncode for worker in workers] == [0, 0]
    with Checkpoints(own) as checkpoints:
        assert checkpoints.steps() == [10, 20]
        restored = checkpoints.restore(abstract(make_state(0, mesh)))
    assert restored.step == 20
    assert restored.rejected == []
    assert_same_bits(restored.state, make_state(20, mesh))
    assert all(x.is_fully_addressable for x in jax.tree.leaves(restored.state))
