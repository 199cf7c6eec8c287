"""A checkpoint saved under any layout goes on under any other as if nothing had happened.

Each pair: train under one layout, save in the middle, train on; restore that checkpoint under the
other layout and compare the steps after it. What a layout computes by itself is tested in
`test_curves.py` and tests/model/test_layouts.py.
"""

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.training_cases import (
    command,
    environment,
    records,
    run,
    session_on_first_devices,
    small_config,
    steps_of,
    train_arguments,
    wait_for,
)

from moe_jax.checkpoint import Checkpoints
from moe_jax.data import Loader, make_loaders
from moe_jax.session import Session
from moe_jax.training.resume import restore_run, run_info
from moe_jax.training.state import TrainState, abstract_state, init_state, state_shardings

pytestmark = pytest.mark.slow

SAVED, LAST = 2, 5
#: 6 layers fill 2 stages in order, and 4 groups unevenly. The bias update makes buffers part of
#: what must come back; a batch of 32 divides under every layout; a constant learning rate does not
#: know how long a run is; one round holds all rows, so that further ones are not compiled.
MODEL = (
    "model.num_layers=6",
    "model.moe.router.bias_update_rate=0.01",
    "exchange.streams=1",
    "exchange.capacity_factor=8.0",
    "train.global_batch=32",
    "schedule.kind=constant",
    "schedule.warmup_steps=2",
)

LAYOUTS = {
    "EP 8": ("mesh.expert=8",),
    "EP 4, data 2": ("mesh.expert=4", "mesh.data=2"),
    "EP 2, TP 2": ("mesh.expert=2", "mesh.tensor=2"),
    "EP 4, PP 2": ("mesh.expert=4", "mesh.pipe=2", "pipeline.microbatches=2"),
    "EP 2, PP 2 interleaved, uneven": (
        "mesh.expert=2",
        "mesh.pipe=2",
        "pipeline.microbatches=2",
        "pipeline.virtual_stages=2",
        "train.remat=full",
    ),
    "FSDP 2, EP 4, dense over both": (
        "mesh.fsdp=2",
        "mesh.expert=4",
        "sharding.dense=fsdp_expert",
    ),
    "one device": ("mesh.expert=1", "exchange.transport=local"),
    "EP 2, TP 2, PP 2": (
        "mesh.expert=2",
        "mesh.tensor=2",
        "mesh.pipe=2",
        "pipeline.microbatches=2",
    ),
    "EP 8 without ZeRO": ("mesh.expert=8", "sharding.optimizer=parameter"),
}
PAIRS = [
    ("EP 8", "EP 4, data 2"),
    ("EP 4, data 2", "EP 8"),
    ("EP 2, TP 2", "EP 8"),
    ("EP 4, PP 2", "EP 8"),
    ("EP 8", "EP 4, PP 2"),
    ("EP 2, PP 2 interleaved, uneven", "one device"),
    ("EP 8", "EP 2, PP 2 interleaved, uneven"),
    ("FSDP 2, EP 4, dense over both", "one device"),
    ("one device", "EP 2, TP 2, PP 2"),
    ("EP 2, TP 2, PP 2", "FSDP 2, EP 4, dense over both"),
    ("EP 8", "EP 8 without ZeRO"),
    ("EP 8 without ZeRO", "EP 8"),
]


@dataclass(frozen=True)
class Layout:
    """One layout, ready to train: its step is compiled once, for whoever goes on under it."""

    session: Session
    loader: Loader
    step: Any


@dataclass(frozen=True)
class Saved:
    """A run that saved after `SAVED` steps and went on to the last."""

    root: Path
    later: np.ndarray
    state: TrainState


@functools.cache
def layout(name: str) -> Layout:
    session = session_on_first_devices(small_config(*MODEL, *LAYOUTS[name]))
    loader = make_loaders(session.config, session.batch_sharding()).train
    return Layout(session, loader, steps_of(session).jit_train())


@functools.cache
def initial_state() -> TrainState:
    """Fresh arrays on the host; tests/model/test_skeleton.py has them the same on every mesh."""
    session = layout("one device").session
    return jax.device_get(init_state(session.skeleton, steps_of(session).optimizer, session.mesh))


def fresh(name: str) -> TrainState:
    """A copy: a step donates its state."""
    session = layout(name).session
    shardings = state_shardings(session.skeleton, steps_of(session).optimizer, session.mesh)
    return jax.device_put(initial_state(), shardings)


def go_on(name: str, state: TrainState, until: int) -> tuple[TrainState, np.ndarray]:
    """Returns the state after step `until`, and (loss, gradient norm) of each step."""
    here, found = layout(name), []
    for index in range(int(state.step), until):
        state, metrics = here.step(state, here.loader(index))
        found.append([float(metrics.loss), float(metrics.grad_norm)])
    return state, np.array(found)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Function of a layout: the run under it, `Saved` on the way."""

    @functools.cache
    def saved(name: str) -> Saved:
        here = layout(name)
        state, _ = go_on(name, fresh(name), SAVED)
        root = tmp_path_factory.mktemp("saved")
        with Checkpoints(root) as checkpoints:
            checkpoints.save(SAVED, state, run_info(here.session.config, here.loader))
        state, later = go_on(name, state, LAST)
        return Saved(root, later, jax.device_get(state))

    return saved


def resumed(name: str, root: Path) -> TrainState:
    here = layout(name)
    steps, mesh = steps_of(here.session), here.session.mesh
    abstract = abstract_state(steps.skeleton, steps.optimizer, mesh)
    with Checkpoints(root) as checkpoints:
        restored = restore_run(checkpoints, "auto", abstract, here.session.config, here.loader)
    assert restored is not None
    return restored.state


def assert_same_state(got: TrainState, want: TrainState) -> None:
    """Parameters, both moments, selection biases and counters, to 1e-4 of each array's largest."""
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max(), err_msg=str(path))


@pytest.mark.parametrize(("saved", "restored"), PAIRS, ids=[" to ".join(pair) for pair in PAIRS])
def test_goes_on_under_another_layout(saved, restored, uninterrupted):
    want = uninterrupted(saved)
    state, later = go_on(restored, resumed(restored, want.root), LAST)
    np.testing.assert_allclose(later, want.later, rtol=1e-5)
    assert_same_state(jax.device_get(state), want.state)


def test_killed_run_goes_on_under_another_layout(cache, tmp_path):
    """The command, with `kill -9`: pipe 2 x expert 4 before, expert 4 x tensor 2 after."""
    steps, workdir = 16, tmp_path / "killed"
    length = (*MODEL, f"train.steps={steps}")
    # Saving in every step makes the run slow enough to be stopped in its middle.
    slow = ("checkpoint.every=1", "checkpoint.mode=sync")
    process = subprocess.Popen(
        command(*train_arguments(workdir, *length, *slow, *LAYOUTS["EP 4, PP 2"])),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = workdir / "metrics.jsonl"
    try:
        wait_for(lambda: metrics.exists() and len(records(workdir)) >= 4, process, 200)
    finally:
        process.kill()
        process.wait()
    done = run(train_arguments(workdir, *length, "mesh.expert=4", "mesh.tensor=2"), cache)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step " in done.stderr
    assert "mesh.pipe was 2, is 1; mesh.tensor was 1, is 2" in done.stderr
    found = records(workdir)
    assert [record["step"] for record in found] == list(range(1, steps + 1))
    _, want = go_on("EP 8", fresh("EP 8"), steps)
    got = [[record["loss"], record["grad_norm"]] for record in found]
    np.testing.assert_allclose(got, want, rtol=1e-4)
