"""One training step: what it moves, what it skips, what it counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.model_cases import LENGTH, arrays, configured, parallel_of, sequences

from moe_jax.data.batch import Batch
from moe_jax.model.skeleton import Skeleton
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.state import TrainState, state_shardings
from moe_jax.training.step import make_steps

BIAS = "stacks.0.unit.blocks.0.moe.router.bias_e"
BASE = (
    "model.num_layers=2",
    "model.moe.router.bias_update_rate=0.25",
    "schedule.warmup_steps=5",
)


@functools.cache
def trainer(*overrides: str):
    """Returns the config, the compiled step and evaluation, and the state's shardings."""
    config = configured(*BASE, *overrides)
    steps = make_steps(Skeleton(config), parallel_of(config))
    shardings = state_shardings(steps.skeleton, steps.optimizer, steps.parallel.mesh)
    return config, steps, steps.jit_train(), steps.jit_evaluate(), shardings


def fresh_state(*overrides: str) -> TrainState:
    """A state of its own: every step donates what it was given."""
    _, steps, _, _, shardings = trainer(*overrides)
    weights = jax.tree.map(jnp.asarray, arrays(steps.skeleton))
    zeros = [jnp.zeros((), jnp.int32) for _ in range(3)]
    opt_state = jax.jit(steps.optimizer.init)(weights.params)
    return jax.device_put(
        TrainState(zeros[0], weights.params, weights.buffers, opt_state, zeros[1], zeros[2]),
        shardings,
    )


def batch(weights: np.ndarray | None = None, *overrides: str) -> Batch:
    config = trainer(*overrides)[0]
    given = sequences() | ({} if weights is None else {"weights": weights})
    shape = (config.train.accumulation, config.exchange.streams, -1, LENGTH)
    return Batch(**{name: array.reshape(shape) for name, array in given.items()})


def step(state: TrainState, given: Batch, *overrides: str) -> tuple[TrainState, StepMetrics]:
    return jax.device_get(trainer(*overrides)[2](state, given))


def poisoned(value: float) -> np.ndarray:
    """Weights of which one, of one sequence on one device, is not finite."""
    weights = sequences()["weights"].copy()
    weights[-1, 2] = value
    return weights


def moved(before: TrainState, after: TrainState) -> set[str]:
    pairs = {n: (before.params[n], after.params[n]) for n in before.params}
    return {n for n, (a, b) in pairs.items() if not np.array_equal(a, b)}


def test_a_step_moves_every_parameter_and_counts():
    before = jax.device_get(fresh_state())
    after, metrics = step(fresh_state(), batch())
    assert moved(before, after) == set(before.params)
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (1, 0, 0)
    assert float(metrics.skipped) == 0
    assert np.isfinite(metrics.loss)
    assert float(metrics.grad_norm) > 0
    assert float(metrics.learning_rate) == pytest.approx(trainer()[0].optimizer.learning_rate / 5)
    np.testing.assert_array_equal(metrics.stats.exchange.rows_dropped, [0, 0])


def test_steps_on_one_batch_lower_its_loss():
    state, losses = fresh_state(), []
    for _ in range(8):
        state, metrics = trainer()[2](state, batch())
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0] - 0.1


def test_evaluation_is_the_loss_of_the_step():
    state = fresh_state()
    nll, weight = trainer()[3](state.weights, batch())
    assert float(weight) == pytest.approx(float(sequences()["weights"].sum()), rel=1e-6)
    _, metrics = step(state, batch())
    assert float(nll / weight) == pytest.approx(float(metrics.loss), rel=1e-5)


@pytest.mark.parametrize(
    ("value", "overrides"),
    [
        pytest.param(np.nan, (), id="nan"),
        pytest.param(np.inf, (), id="inf"),
        pytest.param(np.nan, ("mesh.expert=8",), id="nan on one of 8", marks=pytest.mark.slow),
    ],
)
def test_non_finite_step_leaves_all_but_the_counters_as_they_were(value, overrides):
    state, _ = step(fresh_state(*overrides), batch(None, *overrides), *overrides)
    after, metrics = step(
        jax.device_put(state, trainer(*overrides)[4]),
        batch(poisoned(value), *overrides),
        *overrides,
    )
    assert float(metrics.skipped) == 1
    assert not np.isfinite(metrics.loss)
    for name in ("params", "buffers", "opt_state"):
        old, new = (jax.tree.leaves(getattr(s, name)) for s in (state, after))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(old, new, strict=True)), name
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (2, 1, 1)


def test_skipped_steps_are_counted_in_a_row_and_do_not_advance_the_schedule():
    state, seen = fresh_state(), []
    for weights in (None, poisoned(np.nan), poisoned(np.nan), None):
        state, metrics = trainer()[2](state, batch(weights))
        counters = int(state.skipped_in_a_row), int(state.skipped), int(state.step)
        seen.append((*counters, round(float(metrics.learning_rate), 6)))
    rate = trainer()[0].optimizer.learning_rate
    first, second = round(rate / 5, 6), round(2 * rate / 5, 6)
    assert seen == [(0, 0, 1, first), (1, 1, 2, second), (2, 2, 3, second), (0, 2, 4, second)]


def test_a_step_after_a_skipped_one_is_as_if_nothing_had_been():
    straight, _ = step(fresh_state(), batch())
    state, _ = trainer()[2](fresh_state(), batch(poisoned(np.nan)))
    after, _ = step(state, batch())
    for name, value in straight.params.items():
        assert value.tobytes() == after.params[name].tobytes(), name


def test_selection_biases_move_by_the_rate_against_the_load():
    before = jax.device_get(fresh_state())
    after, metrics = step(fresh_state(), batch())
    load = np.asarray(metrics.stats.balance.load_e)
    assert load.shape == (2, 8)
    wanted = before.buffers[BIAS] + 0.25 * np.sign(load.mean(axis=1, keepdims=True) - load)
    np.testing.assert_allclose(after.buffers[BIAS], wanted, rtol=1e-6)
    assert (np.sign(load.mean(axis=1, keepdims=True) - load) != 0).any()


UNBALANCED = ("model.moe.router.balance_loss=none", "optimizer.clip_norm=0.0")


@pytest.mark.slow
def test_two_microbatches_are_one_large_batch():
    """Without the balance loss, which is one per microbatch by definition."""
    halves = (*UNBALANCED, "train.accumulation=2")
    one, metrics = step(fresh_state(*UNBALANCED), batch(None, *UNBALANCED), *UNBALANCED)
    two, metrics_two = step(fresh_state(*halves), batch(None, *halves), *halves)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(getattr(metrics_two, name), getattr(metrics, name), rtol=1e-5)
    np.testing.assert_array_equal(metrics_two.stats.balance.load_e, metrics.stats.balance.load_e)
    # AdamW's first moments after one step are the gradients, scaled.
    first, second = (jax.tree.leaves(state.opt_state) for state in (one, two))
    for a, b in zip(first, second, strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)


@pytest.mark.slow
def test_balance_loss_of_microbatches_is_averaged():
    halves = ("train.accumulation=2",)
    _, metrics = step(fresh_state(), batch())
    _, metrics_two = step(fresh_state(*halves), batch(None, *halves), *halves)
    assert float(metrics_two.auxiliary_loss) == pytest.approx(
        float(metrics.auxiliary_loss), rel=0.2
    )
    assert float(metrics.auxiliary_loss) > 0


@pytest.mark.slow
def test_accumulated_bfloat16_gradients_are_summed_in_float32():
    overrides = ("precision.params=bfloat16", "train.accumulation=2", *UNBALANCED)
    _, steps, *_ = trainer(*overrides)
    weights = steps.skeleton.abstract(steps.parallel.mesh)
    assert {p.dtype for p in weights.params.values()} == {jnp.dtype(jnp.bfloat16)}
    _, grads = jax.eval_shape(steps._gradients, weights, batch(None, *overrides))
    assert {g.dtype for g in grads.values()} == {jnp.dtype(jnp.float32)}
