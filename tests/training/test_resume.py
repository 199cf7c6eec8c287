"""Interrupted and resumed on purpose: the same final bits, no checkpoint lost, no step twice.

Kills at random moments are in `test_interruption.py`; several processes in `test_processes.py`.
"""

import json
import shutil
import signal
import subprocess

import pytest
from support.training_cases import (
    ONE_DEVICE,
    assert_same_bits,
    checkpoint_arrays,
    command,
    environment,
    finished_run,
    records,
    run,
    session_on_first_devices,
    small_config,
    train_arguments,
    wait_for,
)

from moe_jax.cli.shared import exit_codes
from moe_jax.training.loop import train

pytestmark = pytest.mark.slow

STEPS = 20
#: The bias update makes a buffer part of what must come back.
MODEL = (*ONE_DEVICE, "model.moe.router.bias_update_rate=0.01", "train.validation_every=4")
RUN = (*MODEL, f"train.steps={STEPS}", "checkpoint.every=4", "checkpoint.keep=3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """Workdir of an uninterrupted run, with checkpoints of steps 12, 16 and 20."""
    return finished_run(tmp_path_factory.mktemp("finished"), cache, *RUN)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def steps_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def validations(workdir):
    """Returns (step, validation loss) in the order of metrics.jsonl."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], r["validation_loss"]) for r in found if "validation_loss" in r]


def assert_ended_alike(workdir, finished):
    assert_same_bits(checkpoint_arrays(workdir, STEPS), checkpoint_arrays(finished, STEPS))
    got, want = records(workdir), records(finished)
    assert [record["step"] for record in got] == list(range(1, STEPS + 1))
    assert [record["loss"] for record in got] == [record["loss"] for record in want]
    assert validations(workdir) == validations(finished)


def test_uninterrupted_run_saves_all_of_its_state(finished):
    assert steps_of(finished) == [12, 16, 20]
    arrays = checkpoint_arrays(finished, STEPS)
    assert int(arrays["step"]) == STEPS
    assert {path.split("/")[0] for path in arrays} == {
        *("step", "params", "buffers", "opt_state", "skipped_in_a_row", "skipped")
    }
    assert [step for step, _ in validations(finished)] == [4, 8, 12, 16, 20]
    assert not (arrays["buffers/stacks.0.unit.blocks.0.moe.router.bias_e"] == 0).all()


def test_sigterm_saves_exits_with_its_code_and_resumes(finished, cache, tmp_path):
    workdir = tmp_path / "stopped"
    # Saving in every step makes the run slow enough to be stopped in its middle.
    slow = ("checkpoint.every=1", "checkpoint.mode=sync")
    process = subprocess.Popen(
        command(*train_arguments(workdir, *RUN, *slow)),
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    metrics = workdir / "metrics.jsonl"
    try:
        wait_for(lambda: metrics.exists() and len(records(workdir)) >= 5, process, 120)
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == exit_codes.PREEMPTED
    assert "asked to end: the same command resumes" in output
    stopped = steps_of(workdir)[-1]
    assert 5 <= stopped < STEPS
    assert [record["step"] for record in records(workdir)] == list(range(1, stopped + 1))

    done = run(train_arguments(workdir, *RUN), cache)
    assert done.returncode == 0, done.stderr
    assert f"resuming from the checkpoint of step {stopped}\n" in done.stderr
    assert_ended_alike(workdir, finished)


def test_a_run_beyond_its_last_step_is_refused_and_left_as_it_was(copy, cache):
    before = (copy / "config.toml").read_text()
    done = run(train_arguments(copy, *RUN, "train.steps=10"), cache)
    assert done.returncode == exit_codes.USER_ERROR
    assert "the checkpoint is of step 20, beyond train.steps (10)" in done.stderr
    assert (copy / "config.toml").read_text() == before
    assert steps_of(copy) == [12, 16, 20]


def test_resuming_an_earlier_step_sets_later_ones_aside(copy, finished, cache):
    done = run([*train_arguments(copy, *RUN), "--resume", "12"], cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step 12\n" in done.stderr
    assert "set aside the checkpoint of step 20" in done.stderr
    assert_ended_alike(copy, finished)
    aside = copy / "set-aside"
    assert sorted(path.name for path in aside.iterdir()) == ["00000016", "00000020"]
    # They are whole: moved back, they are checkpoints like any other.
    shutil.rmtree(copy / "checkpoints")
    aside.rename(copy / "checkpoints")
    for step in (16, 20):
        assert_same_bits(checkpoint_arrays(copy, step), checkpoint_arrays(finished, step))


def test_truncated_newest_checkpoint_is_passed_over_and_replaced(copy, finished, cache):
    files = [path for path in (copy / "checkpoints" / "00000020").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    size = largest.stat().st_size
    with largest.open("r+b") as file:
        file.truncate(size // 2)
    done = run(train_arguments(copy, *RUN), cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step 16, passing over 1 unusable" in done.stderr
    assert f"00000020: arrays/{largest.relative_to(copy / 'checkpoints/00000020/arrays')}: " in (
        done.stderr
    )
    assert f"{size // 2} bytes, saved with {size}" in done.stderr
    assert_ended_alike(copy, finished)


def test_finished_run_is_left_as_it_is(copy, finished):
    config = small_config(*RUN)
    outcome = train(session_on_first_devices(config), copy, "auto")
    assert (outcome.step, outcome.loss, outcome.preempted) == (STEPS, None, False)
    assert (copy / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert steps_of(copy) == steps_of(finished)


@pytest.mark.parametrize(
    ("overrides", "resume", "words"),
    [
        ((), "none", r"holds checkpoints of steps \[12, 16, 20\], and --resume none would start"),
        ((), "13", r"no good checkpoint of step 13 .* which holds: 12, 16, 20"),
        ((), "newest", r"--resume newest: give auto, none, or the step"),
        (("train.global_batch=32",), "auto", r"train\.global_batch=16 and this run has 32"),
        (("train.global_batch=32",), "12", r"train\.global_batch=16 and this run has 32"),
        (("data.source=synthetic",), "auto", r"the data differs .*documents was .* is 'uniform"),
        (("seed=1",), "auto", r"the data differs .*seed was 0, is 1"),
        (("data.sequence_length=64",), "auto", r"sequence_length was 32, is 64"),
        (("model.num_layers=3",), "auto", r"step 20 .*does not fit: of another shape"),
        (("optimizer.name=muon",), "auto", r"step 20 .*does not fit: wanted but not saved"),
    ],
)
def test_run_that_cannot_go_on_is_refused_and_changes_nothing(
    copy, finished, overrides, resume, words
):
    session = session_on_first_devices(small_config(*RUN, *overrides))
    with pytest.raises(ValueError, match=words):
        train(session, copy, resume)
    for name in ("config.toml", "metrics.jsonl"):
        assert (copy / name).read_text() == (finished / name).read_text()
    assert steps_of(copy) == [12, 16, 20]
    assert not (copy / "set-aside").exists()
