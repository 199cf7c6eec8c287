"""The last step: what one expert leaves another uses, and backward finds what it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.exchange.exchange_contract import TanhExperts
from support.exchange.exchange_reference import make_problem, solve

from moe_jax.moe.exchange.all_gather import AllGather
from moe_jax.moe.exchange.at_experts import AtExperts
from moe_jax.moe.exchange.contract import ExchangeSpec, Routing
from moe_jax.sharding.tensor import ONE

TOKENS, EXPERTS, TOP_K, SIZE = 32, 4, 2, 8


def serve(factor: float, overflow: str = "rounds") -> AtExperts:
    spec = ExchangeSpec(AllGather(), EXPERTS, 1, factor, overflow, round_fraction=0.125)
    return AtExperts(TanhExperts(), spec, ONE)


def operands(routing: str):
    problem = make_problem(routing, TOKENS, EXPERTS, TOP_K, SIZE)
    params = (jnp.asarray(problem.w_in_edf), jnp.asarray(problem.w_out_efd))
    routed = Routing(jnp.asarray(problem.experts_tk), jnp.asarray(problem.weights_tk))
    return problem, params, jnp.asarray(problem.x_td), routed


@pytest.mark.parametrize("routing", ["balanced", "skewed", "hot", "empty"])
def test_skew_among_the_experts_of_a_device_costs_no_round(routing):
    problem, params, x_td, routed = operands(routing)
    y_td, (dropped, rounds) = jax.jit(serve(1.0))(params, x_td, routed)
    wanted = solve(problem, np.ones((TOKENS, TOP_K), bool)).y_td
    np.testing.assert_allclose(y_td, wanted, rtol=1e-4, atol=1e-5)
    assert float(dropped) == 0
    assert float(rounds) == 0


@pytest.mark.parametrize(("overflow", "dropped", "rounds"), [("rounds", 0, 4), ("drop", 32, 0)])
def test_what_exceeds_the_main_round_runs_in_eighths_of_it(overflow, dropped, rounds):
    """64 choices for 32 rows: 4 further rounds of 8, the least that tensor cores want."""
    _, params, x_td, routed = operands("balanced")
    _, counts = jax.jit(serve(0.5, overflow))(params, x_td, routed)
    np.testing.assert_array_equal(counts, [dropped, rounds])


@pytest.mark.parametrize("factor", [0.25, 1.0])
def test_backward_keeps_tokens_and_hidden_values_of_the_main_round(factor):
    """No rows [r, d]: they are gathered again."""
    _, params, x_td, routed = operands("balanced")

    def run(params, x_td, weights_tk):
        return serve(factor)(params, x_td, Routing(routed.experts_tk, weights_tk))[0]

    kept = jax.make_jaxpr(lambda *args: jax.vjp(run, *args))(params, x_td, routed.weights_tk)
    shapes = [v.aval.shape for v in kept.jaxpr.outvars]
    rows, hidden = int(factor * TOKENS * TOP_K), SIZE + 2
    assert (rows, hidden) in shapes
    assert (rows, SIZE) not in shapes
