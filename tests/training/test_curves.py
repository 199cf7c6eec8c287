"""The quickstart's loss curve is the same on every mesh, with every transport, stream and remat.

What one exchange computes is tested in tests/moe/exchange; here whole runs are compared, 20 steps
in float32, each with the reference: one device that holds all experts.
"""

import functools
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from support.training_cases import ONE_DEVICE, session_on_first_devices, small_config, steps_of

from moe_jax.data import make_loaders
from moe_jax.training.state import init_state, state_shardings

pytestmark = pytest.mark.slow

#: 4 streams on 8 devices need 32 sequences.
COMMON = ("train.global_batch=32",)
UNBALANCED = ("model.moe.router.balance_loss=none",)


@dataclass(frozen=True)
class Curve:
    """One value per step."""

    losses: np.ndarray
    grad_norms: np.ndarray
    overflow_rounds: np.ndarray
    dropped: np.ndarray


@functools.cache
def initial_state():
    """Fresh arrays on the host; tests/model/test_skeleton.py has them the same on every mesh."""
    session = session_on_first_devices(small_config(*COMMON, *ONE_DEVICE))
    steps = steps_of(session)
    return jax.device_get(init_state(steps.skeleton, steps.optimizer, session.mesh))


@functools.cache
def curve(*overrides: str) -> Curve:
    config = small_config(*COMMON, *overrides)
    session = session_on_first_devices(config)
    loader = make_loaders(config, session.batch_sharding()).train
    steps = steps_of(session)
    shardings = state_shardings(steps.skeleton, steps.optimizer, session.mesh)
    # A copy: a step donates its state.
    state = jax.device_put(initial_state(), shardings)
    step = steps.jit_train()
    found = []
    for index in range(config.train.steps):
        state, metrics = step(state, loader(index))
        exchange = metrics.stats.exchange
        values = (metrics.loss, metrics.grad_norm, exchange.overflow_rounds, exchange.rows_dropped)
        found.append([float(np.sum(value)) for value in values])
    assert int(state.skipped) == 0
    return Curve(*np.array(found).T)


def assert_same_curve(got: Curve, want: Curve) -> None:
    np.testing.assert_allclose(got.losses, want.losses, rtol=1e-4)
    # AdamW hides a gradient of the wrong scale from the loss.
    np.testing.assert_allclose(got.grad_norms, want.grad_norms, rtol=1e-4)
    assert got.dropped.sum() == 0


def test_reference_learns():
    losses = curve(*ONE_DEVICE).losses
    assert abs(losses[0] - np.log(264)) < 0.5
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="as shipped: 8 devices, all_to_all, 2 streams"),
        pytest.param(("exchange.streams=1",), id="1 stream"),
        pytest.param(("exchange.streams=4",), id="4 streams"),
        pytest.param(("exchange.transport=all_gather",), id="all_gather"),
        pytest.param(("exchange.transport=local",), id="local on 8 devices"),
        pytest.param(("mesh.expert=1",), id="1 device, 8 local experts"),
        pytest.param(("mesh.expert=4",), id="4 devices, 2 local experts each"),
        pytest.param(("mesh.expert=4", "mesh.data=2"), id="2 replicas of 4 devices"),
        pytest.param(("mesh.fsdp=2", "mesh.expert=4"), id="fsdp 2, expert 4"),
        pytest.param(
            ("mesh.fsdp=2", "mesh.expert=4", "sharding.dense=fsdp_expert"),
            id="dense parameters over fsdp x expert",
        ),
        pytest.param(("mesh.expert=4", "mesh.tensor=2"), id="expert 4, tensor 2"),
        pytest.param(
            ("mesh.pipe=2", "mesh.expert=4", "pipeline.microbatches=2"), id="pipe 2, expert 4"
        ),
        pytest.param(
            ("mesh.pipe=2", "mesh.expert=2", "mesh.tensor=2", "pipeline.microbatches=2"),
            id="pipe 2, expert 2, tensor 2",
        ),
        pytest.param(("train.remat=full",), id="remat full"),
        pytest.param(("train.remat=dispatch",), id="remat dispatch"),
    ],
)
def test_curve_is_that_of_one_device(overrides):
    assert_same_curve(curve(*overrides), curve(*ONE_DEVICE))


def test_overflowing_rounds_change_nothing():
    got = curve("exchange.capacity_factor=0.5")
    assert_same_curve(got, curve(*ONE_DEVICE))
    assert (got.overflow_rounds > curve().overflow_rounds).all()


def test_accumulated_microbatches_are_one_batch():
    """Without the balance loss, which is one per microbatch by definition."""
    got = curve("train.accumulation=2", *UNBALANCED)
    assert_same_curve(got, curve(*ONE_DEVICE, *UNBALANCED))
