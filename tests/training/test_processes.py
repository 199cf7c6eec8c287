"""A job of two processes is the same run: the same curve, and checkpoints that one can go on from.

Other ways to start processes are tested in tests/mesh; stopping and resuming one process is in
`test_resume.py`.
"""

import shutil
import signal
import subprocess

import numpy as np
import pytest
from support.training_cases import (
    ROOT,
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

from moe_jax.checkpoint import read_contents

pytestmark = pytest.mark.slow

STEPS = ("train.steps=20", "checkpoint.every=10")


def start_cluster(workdir, cache, *overrides):
    """Starts 2 processes of 4 devices each, through the script that rehearses a cluster."""
    arguments = ["2", *command(*train_arguments(workdir, *STEPS, *overrides))]
    return subprocess.Popen(
        ["bash", str(ROOT / "launch" / "local_cluster.sh"), *arguments],
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


#: One stage in each process, so that experts exchange tokens inside a process only.
PIPELINE = ("mesh.pipe=2", "mesh.expert=4", "pipeline.microbatches=2")


def losses(workdir):
    return np.array([record["loss"] for record in records(workdir)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """Workdir of one process with 8 devices."""
    return finished_run(tmp_path_factory.mktemp("alone"), cache, *STEPS)


@pytest.fixture(scope="module")
def together(tmp_path_factory, cache):
    """Workdir of two processes."""
    workdir = tmp_path_factory.mktemp("together")
    cluster = start_cluster(workdir, cache)
    output, _ = cluster.communicate(timeout=300)
    assert cluster.returncode == 0, output
    return workdir


def test_two_processes_draw_the_curve_of_one(alone, together):
    steps = [record["step"] for record in records(together)]
    assert steps == list(range(1, 21))
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-4)
    assert {record["layers.off_host_share"][0] > 0 for record in records(together)} == {True}
    assert {record["layers.off_host_share"][0] > 0 for record in records(alone)} == {False}


def test_one_process_goes_on_from_the_checkpoint_of_two(together, cache, tmp_path):
    workdir = shutil.copytree(together, tmp_path / "copy")
    done = run([*train_arguments(workdir, *STEPS), "--resume", "10"], cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step 10" in done.stderr
    np.testing.assert_array_equal(losses(workdir)[:10], losses(together)[:10])
    np.testing.assert_allclose(losses(workdir), losses(together), rtol=1e-4)
    assert_same_bits(checkpoint_arrays(workdir, 10), checkpoint_arrays(together, 10))


@pytest.fixture(scope="module")
def staged(tmp_path_factory, cache):
    """Workdir of two processes, each a stage of the pipeline."""
    workdir = tmp_path_factory.mktemp("staged")
    cluster = start_cluster(workdir, cache, *PIPELINE)
    output, _ = cluster.communicate(timeout=300)
    assert cluster.returncode == 0, output
    return workdir


def test_two_stages_draw_the_curve_of_one_process_without_a_pipeline(alone, staged):
    assert [record["step"] for record in records(staged)] == list(range(1, 21))
    np.testing.assert_allclose(losses(staged), losses(alone), rtol=1e-4)
    assert {record["layers.off_host_share"][0] for record in records(staged)} == {0}
    assert read_contents(staged / "checkpoints", 20).writers == 2


def test_one_process_goes_on_without_a_pipeline(staged, alone, cache, tmp_path):
    workdir = shutil.copytree(staged, tmp_path / "copy")
    done = run([*train_arguments(workdir, *STEPS), "--resume", "10"], cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step 10" in done.stderr
    np.testing.assert_array_equal(losses(workdir)[:10], losses(staged)[:10])
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-4)


def test_two_processes_go_on_as_stages_of_a_pipeline(alone, cache, tmp_path):
    workdir = shutil.copytree(alone, tmp_path / "copy")
    shutil.rmtree(workdir / "checkpoints" / "00000020")
    cluster = start_cluster(workdir, cache, *PIPELINE)
    output, _ = cluster.communicate(timeout=300)
    assert cluster.returncode == 0, output
    assert "resuming from the checkpoint of step 10" in output
    np.testing.assert_array_equal(losses(workdir)[:10], losses(alone)[:10])
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-4)


def test_two_processes_save_on_sigterm_and_one_goes_on(alone, cache, tmp_path):
    workdir = tmp_path / "stopped"
    # Saving in every step makes the run slow enough to be stopped in its middle.
    cluster = start_cluster(workdir, cache, "checkpoint.every=1", "checkpoint.mode=sync")
    metrics = workdir / "metrics.jsonl"
    try:
        wait_for(lambda: metrics.exists() and len(records(workdir)) > 2, cluster, 200)
    finally:
        cluster.send_signal(signal.SIGTERM)
        output, _ = cluster.communicate(timeout=120)
    assert cluster.returncode == 143, output
    assert output.count("asked to end: the same command resumes") == 1
    last = records(workdir)[-1]["step"]
    assert last < 20
    done = run(train_arguments(workdir, *STEPS), cache)
    assert done.returncode == 0, done.stderr
    assert f"resuming from the checkpoint of step {last}\n" in done.stderr
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-4)
