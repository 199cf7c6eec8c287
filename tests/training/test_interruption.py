"""Killed at any moment, in training or in saving, and resumed: the same state, bit for bit."""

import random
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
    train_arguments,
    wait_for,
)

pytestmark = pytest.mark.slow

STEPS = 20
#: A save starts in every second step, so that kills hit saves as well.
RUN = (*ONE_DEVICE, f"train.steps={STEPS}", "checkpoint.every=2")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    return finished_run(tmp_path_factory.mktemp("uninterrupted"), cache, *RUN)


def test_killed_and_resumed_run_ends_with_the_same_bits(uninterrupted, cache, tmp_path):
    workdir, moments = tmp_path / "killed", random.Random(0)
    metrics = workdir / "metrics.jsonl"
    kills = 0
    while kills < 5:
        process = subprocess.Popen(
            command(*train_arguments(workdir, *RUN)),
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        at = (kills + 1) * 3
        try:
            wait_for(lambda at=at: metrics.exists() and len(records(workdir)) >= at, process, 120)
            # From here to well into the next steps and their saves.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0, 0.06))
        finally:
            process.kill()
            process.wait()
        kills += 1
    done = run(train_arguments(workdir, *RUN), cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step" in done.stderr
    assert [record["step"] for record in records(workdir)] == list(range(1, STEPS + 1))
    assert_same_bits(checkpoint_arrays(workdir, STEPS), checkpoint_arrays(uninterrupted, STEPS))
