"""Further rounds run when a queue overflows, as many as counted, and not otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.exchange.exchange_reference import make_problem

from moe_jax.moe.exchange.contract import Routing
from moe_jax.moe.exchange.local import STAY
from moe_jax.moe.exchange.rounds import RECEIVED, run_rounds

TOKENS, EXPERTS, TOP_K, SIZE = 16, 4, 1, 3


def run_and_count_calls(routing: str, capacity: int, overflow: str):
    problem = make_problem(routing, TOKENS, EXPERTS, TOP_K, SIZE)
    calls = []

    def experts_fn(rows_lrd):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * rows_lrd

    @jax.jit
    def run(x_td, experts_tk, weights_tk):
        return run_rounds(
            x_td,
            Routing(experts_tk, weights_tk),
            experts_fn,
            STAY,
            num_experts=EXPERTS,
            capacity=capacity,
            overflow=overflow,
        )

    combined = jax.block_until_ready(run(problem.x_td, problem.experts_tk, problem.weights_tk))
    jax.effects_barrier()
    return problem, combined, len(calls)


@pytest.mark.parametrize(
    ("routing", "capacity", "overflow", "rounds"),
    [
        ("balanced", 4, "rounds", 0),
        ("balanced", 3, "rounds", 1),
        ("hot", 4, "rounds", 3),
        ("hot", 5, "rounds", 3),
        ("hot", 16, "rounds", 0),
        ("hot", 4, "drop", 0),
    ],
)
def test_experts_run_once_per_round(routing, capacity, overflow, rounds):
    _, combined, calls = run_and_count_calls(routing, capacity, overflow)
    assert calls == 1 + rounds
    assert float(combined.rounds) == rounds


def test_single_hot_expert_loses_no_token():
    problem, combined, _ = run_and_count_calls("hot", 1, "rounds")
    np.testing.assert_allclose(combined.y_td, 2 * problem.x_td * problem.weights_tk, rtol=1e-6)
    assert float(combined.dropped) == 0
    assert float(combined.padded) == TOKENS * EXPERTS - TOKENS


def test_empty_queues_still_pay_for_the_main_round():
    nobody = jnp.full((TOKENS, TOP_K), EXPERTS, jnp.int32)
    weights = jnp.ones((TOKENS, TOP_K))
    run = functools.partial(
        run_rounds,
        experts_fn=lambda rows: rows,
        wire=STAY,
        num_experts=EXPERTS,
        capacity=2,
        overflow="rounds",
    )
    combined = jax.jit(run)(jnp.ones((TOKENS, SIZE)), Routing(nobody, weights))
    assert float(combined.rounds) == 0
    assert float(combined.padded) == EXPERTS * 2
    np.testing.assert_array_equal(combined.y_td, 0)


def test_only_the_main_rounds_arrivals_are_kept_for_backward_by_name():
    problem = make_problem("balanced", TOKENS, EXPERTS, TOP_K, SIZE)
    capacity = 4  # 4 rounds at most

    def run(x_td):
        combined = run_rounds(
            x_td,
            Routing(jnp.asarray(problem.experts_tk), jnp.asarray(problem.weights_tk)),
            jnp.sin,
            STAY,
            num_experts=EXPERTS,
            capacity=capacity,
            overflow="rounds",
        )
        return combined.y_td

    keep = jax.checkpoint_policies.save_only_these_names(RECEIVED)
    kept = jax.make_jaxpr(lambda x: jax.vjp(jax.checkpoint(run, policy=keep), x))(
        jnp.asarray(problem.x_td)
    )
    sizes = [value.aval.size for value in kept.jaxpr.outvars]
    assert max(sizes) == EXPERTS * capacity * SIZE
