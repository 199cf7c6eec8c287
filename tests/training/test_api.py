"""`moe_jax.train`: a run in hand, gone on with, asked; and what it refuses."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.training_cases import ONE_DEVICE, QUICKSTART, SMALL, records, small_config

import moe_jax
from moe_jax.training.api import Run

SHORT = ("model.num_layers=1", "schedule.warmup_steps=1")
TINY = (*ONE_DEVICE, *SHORT, "train.steps=4", "checkpoint.every=2")


@pytest.fixture(scope="module", autouse=True)
def started():
    """JAX runs on 8 devices, as in any process of tests, before `train` could choose fewer."""
    assert jax.device_count() == 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "a"
    return moe_jax.train(small_config(*TINY), workdir=str(workdir))


def test_run_says_how_it_ended(run):
    assert run.outcome.step == 4
    assert repr(run) == (
        f"Run('quickstart' in {str(run.workdir)!r}: finished at step 4, "
        f"loss {run.outcome.loss:.4f})"
    )
    assert run.config.train.steps == 4


def test_history_is_what_metrics_jsonl_holds(run):
    history = run.history
    np.testing.assert_array_equal(history["step"], [1, 2, 3, 4])
    for name in ("loss", "grad_norm", "tokens_per_second", "moe.load_imbalance"):
        written = [record[name] for record in records(run.workdir)]
        np.testing.assert_array_equal(history[name], written)
    assert history["loss"][-1] == run.outcome.loss
    assert history["layers.load_imbalance"].shape == (4, 1)


def test_a_run_goes_on_and_its_history_with_it(run, tmp_path):
    first = moe_jax.train(small_config(*TINY, "train.steps=2"), workdir=tmp_path / "b")
    assert first.history["step"].tolist() == [1, 2]
    longer = moe_jax.train(small_config(*TINY, "train.steps=4"), workdir=tmp_path / "b", resume=2)
    assert longer.outcome.step == 4
    assert longer.history["step"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(longer.history["loss"][:2], first.history["loss"])


def test_the_model_can_be_asked(run):
    model = run.model()
    assert model.config.model == run.config.model
    text = model.generate("def ", max_tokens=3, temperature=0)
    assert text == moe_jax.load(run.workdir).generate("def ", max_tokens=3, temperature=0)


def test_initial_weights_may_be_those_of_a_run(run, tmp_path):
    config = small_config(*TINY, "train.steps=1")
    tuned = moe_jax.train(config, tmp_path / "c", init_from=run.workdir)
    fresh = moe_jax.train(config, tmp_path / "d")
    assert tuned.history["loss"][0] < fresh.history["loss"][0]


def test_repr_of_a_run_that_was_asked_to_end(run):
    outcome = dataclasses.replace(
        run.outcome, step=3, loss=2.0, validation_loss=1.5, preempted=True
    )
    text = repr(dataclasses.replace(run, outcome=outcome))
    assert text.endswith("asked to end after step 3 of 4, loss 2.0000, validation 1.5000)")


def test_too_few_devices_say_what_to_call_first(tmp_path):
    config = small_config("mesh.data=2", "train.global_batch=32")
    with pytest.raises(moe_jax.UserError) as refused:
        moe_jax.train(config, tmp_path / "run")
    for part in (
        "JAX has already started with 8 cpu devices",
        "needs 16: call moe_jax.train before anything else that uses JAX",
        'load_config(path, ["mesh.expert=8"])',
    ):
        assert part in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_another_platform_than_the_running_one_is_refused(tmp_path):
    with pytest.raises(moe_jax.UserError, match="on platform gpu"):
        moe_jax.train(small_config(*TINY, "runtime.platform=gpu"), tmp_path / "run")


def test_mistakes_are_named_before_anything_is_made(tmp_path):
    with pytest.raises(moe_jax.UserError, match=r"missing\.toml"):
        moe_jax.train(tmp_path / "missing.toml", tmp_path / "run")
    uneven = moe_jax.load_config(QUICKSTART, [*SMALL, "model.moe.num_experts=9"])
    with pytest.raises(moe_jax.UserError, match=r"num_experts \(9\) must be a multiple"):
        moe_jax.train(uneven, tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(moe_jax.UserError, match="file is a file: give a directory"):
        moe_jax.train(small_config(*TINY), tmp_path / "file")
    assert not (tmp_path / "run").exists()


def test_results_are_frozen(run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.outcome = None
    assert isinstance(run, Run)


@pytest.mark.slow
def test_devices_are_emulated_where_nothing_has_started_jax(tmp_path):
    """In a process of its own, which the mesh of 2 finds without devices."""
    sizes = [*SMALL, *SHORT, "mesh.expert=2", "train.steps=1"]
    code = (
        "import moe_jax\n"
        f"config = moe_jax.load_config({str(QUICKSTART)!r}, {sizes!r})\n"
        f"run = moe_jax.train(config, workdir={str(tmp_path / 'run')!r})\n"
        "import jax; print(jax.device_count(), run.outcome.step)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 1\n"
