"""Further rounds run as often as counted; their gradients are those of one sum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.exchange.rounds import further_rounds, run_rounds

PLACES = 12
MAIN, STEP = 6, 2


def served(operands, fixed, first, places, calls=None):
    """Adds scale * (value of each place)^2 for the places of a round; counts the places."""
    values_p, _ = fixed
    if calls is not None:
        jax.debug.callback(lambda: calls.append(1))
    here_p = jax.lax.dynamic_slice_in_dim(values_p, first, places)
    return (operands * here_p[:, None] ** 2).sum(axis=0), jnp.float32(places)


def decide(fixed, count):
    """As many as are asked for; `count` is the main round's."""
    return jnp.where(count == MAIN, fixed[1], -1)


def by_hand(scale_d, values_p, places):
    return (scale_d * values_p[:places, None] ** 2).sum(axis=0)


@pytest.mark.parametrize(("longest", "rounds"), [(0, 0), (6, 0), (7, 1), (8, 1), (9, 2), (12, 3)])
def test_as_many_rounds_as_the_longest_queue_needs(longest, rounds):
    assert int(further_rounds(jnp.int32(longest), MAIN, STEP)) == rounds


@pytest.mark.parametrize("extra", [0, 1, 3])
def test_values_counts_and_gradients_are_sums_over_rounds(extra):
    values_p = jnp.arange(1.0, PLACES + 1)
    scale_d = jnp.array([1.0, -2.0, 0.5])
    grad_d = jnp.array([3.0, 1.0, -1.0])

    @jax.jit
    def run(scale_d, extra):
        def loss(scale_d):
            fixed = (values_p, extra)
            y_d, *counts = run_rounds(served, scale_d, fixed, decide, main=MAIN, step=STEP)
            return (y_d * grad_d).sum(), (y_d, *counts)

        return jax.value_and_grad(loss, has_aux=True)(scale_d)

    (_, (y_d, count, rounds)), grad = run(scale_d, jnp.int32(extra))
    places = MAIN + extra * STEP
    np.testing.assert_allclose(y_d, by_hand(scale_d, values_p, places), rtol=1e-6)
    np.testing.assert_allclose(grad, grad_d * (values_p[:places] ** 2).sum(), rtol=1e-6)
    assert float(count) == places
    assert int(rounds) == extra


def test_without_a_decision_there_is_no_loop():
    def run(scale_d):
        fixed = (jnp.ones(PLACES), jnp.int32(3))
        return run_rounds(served, scale_d, fixed, None, main=MAIN, step=STEP)

    assert "while" not in str(jax.make_jaxpr(lambda s: jax.vjp(run, s)[1])(jnp.ones(3)))
    assert int(run(jnp.ones(3))[2]) == 0


@pytest.mark.parametrize("extra", [0, 2])
def test_a_round_is_computed_once_forward(extra):
    calls: list[int] = []
    one_round = functools.partial(served, calls=calls)

    @jax.jit
    def run(scale_d, extra):
        fixed = (jnp.ones(PLACES), extra)
        return run_rounds(one_round, scale_d, fixed, decide, main=MAIN, step=STEP)

    jax.block_until_ready(run(jnp.ones(3), jnp.int32(extra)))
    jax.effects_barrier()
    assert len(calls) == 1 + extra


def test_backward_keeps_nothing_of_further_rounds():
    """What is kept does not depend on how many places there are beyond the main round's."""
    values_p = jnp.ones(1000)

    def run(scale_d):
        fixed = (values_p, jnp.int32(3))
        return run_rounds(served, scale_d, fixed, decide, main=MAIN, step=STEP)[0]

    kept = jax.make_jaxpr(lambda s: jax.vjp(run, s))(jnp.ones(3))
    sizes = sorted(v.aval.size for v in kept.jaxpr.outvars)
    # The values themselves are an input; of the main round its places' squares.
    assert sizes[-1] == 1000
    assert sizes[-2] <= MAIN * 3
