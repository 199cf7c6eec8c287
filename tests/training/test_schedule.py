"""Learning rates at the steps where a schedule turns."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.config import Config, override
from moe_jax.training.schedule import make_schedule

PEAK, STEPS, WARMUP = 2.0, 100, 10


def rates(*settings: str) -> np.ndarray:
    config = override(
        Config(),
        [
            f"optimizer.learning_rate={PEAK}",
            f"schedule.warmup_steps={WARMUP}",
            "schedule.final_fraction=0.1",
            *(f"schedule.{setting}" for setting in settings),
        ],
    )
    schedule = make_schedule(config.schedule, config.optimizer, STEPS)
    return np.array([float(schedule(jnp.int32(step))) for step in range(STEPS + 1)])


@pytest.mark.parametrize("kind", ["cosine", "constant", "wsd"])
def test_warm_up_is_linear_and_its_first_step_moves(kind):
    got = rates(f"kind={kind}", "decay_steps=20")
    np.testing.assert_allclose(got[:WARMUP], PEAK * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-6)


def test_cosine_falls_from_the_peak_to_the_final_fraction():
    got = rates("kind=cosine")
    progress = np.arange(STEPS + 1 - WARMUP) / (STEPS - WARMUP)
    wanted = PEAK * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2)
    np.testing.assert_allclose(got[WARMUP:], wanted, rtol=1e-5)


def test_wsd_is_stable_then_falls_linearly():
    got = rates("kind=wsd", "decay_steps=20")
    np.testing.assert_allclose(got[WARMUP : STEPS - 20 + 1], PEAK, rtol=1e-6)
    decay = PEAK * (1 - 0.9 * np.arange(21) / 20)
    np.testing.assert_allclose(got[STEPS - 20 :], decay, rtol=1e-5)


def test_constant_stays():
    np.testing.assert_allclose(rates("kind=constant")[WARMUP:], PEAK, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1])
def test_short_warm_ups_start_at_the_peak(warmup):
    got = rates("kind=constant", f"warmup_steps={warmup}")
    np.testing.assert_allclose(got, PEAK, rtol=1e-6)
