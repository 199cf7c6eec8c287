"""Queues and windows against a loop that appends choices to lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.exchange.exchange_reference import ROUTINGS, make_problem

from moe_jax.moe.exchange.rows import (
    from_rows,
    make_queues,
    scalars_from_rows,
    to_rows,
    weighted_to_rows,
    window,
)

TOKENS, EXPERTS, TOP_K, SIZE, CAPACITY = 11, 4, 2, 3, 3


def queues_by_hand(experts_tk: np.ndarray) -> list[list[tuple[int, int]]]:
    """Per expert the (token, k) it serves, in order."""
    queues: list[list[tuple[int, int]]] = [[] for _ in range(EXPERTS)]
    for k in range(experts_tk.shape[1]):
        for t in range(experts_tk.shape[0]):
            if experts_tk[t, k] < EXPERTS:
                queues[experts_tk[t, k]].append((t, k))
    return queues


@pytest.fixture(params=[*ROUTINGS, "out of range"])
def problem(request):
    if request.param != "out of range":
        return make_problem(request.param, TOKENS, EXPERTS, TOP_K, SIZE)
    made = make_problem("random", TOKENS, EXPERTS, TOP_K, SIZE)
    made.experts_tk[::3, 0] = EXPERTS
    return made


def places(index: int) -> slice:
    return slice(index * CAPACITY, (index + 1) * CAPACITY)


def test_queues_hold_choices_k_major_then_by_token(problem):
    queues = make_queues(jnp.asarray(problem.experts_tk), EXPERTS)
    for e, wanted in enumerate(queues_by_hand(problem.experts_tk)):
        start, length = int(queues.start_e[e]), int(queues.length_e[e])
        numbers = np.asarray(queues.order_r)[start : start + length]
        assert [(int(n) % TOKENS, int(n) // TOKENS) for n in numbers] == wanted
        assert [int(queues.rank_tk[t, k]) for t, k in wanted] == list(range(length))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_window_and_moves_equal_the_lists(problem, index):
    queues = make_queues(jnp.asarray(problem.experts_tk), EXPERTS)
    at = window(queues, index, CAPACITY)
    served = [queue[places(index)] for queue in queues_by_hand(problem.experts_tk)]
    rows = np.zeros((EXPERTS, CAPACITY, SIZE), np.float32)
    weighted, row_of = np.zeros_like(rows), np.full((TOKENS, TOP_K), EXPERTS * CAPACITY)
    for e, choices in enumerate(served):
        for c, (t, k) in enumerate(choices):
            rows[e, c] = problem.x_td[t]
            weighted[e, c] = problem.x_td[t] * problem.weights_tk[t, k]
            row_of[t, k] = e * CAPACITY + c
    x_td, weights_tk = jnp.asarray(problem.x_td), jnp.asarray(problem.weights_tk)
    np.testing.assert_array_equal(at.row_tk, row_of)
    np.testing.assert_array_equal(to_rows(x_td, at), rows.reshape(-1, SIZE))
    np.testing.assert_array_equal(
        weighted_to_rows(x_td, weights_tk, at), weighted.reshape(-1, SIZE)
    )


@pytest.mark.parametrize("index", [0, 1])
def test_from_rows_sums_each_tokens_rows_with_weights(problem, index):
    at = window(make_queues(jnp.asarray(problem.experts_tk), EXPERTS), index, CAPACITY)
    rows_rd = np.random.default_rng(0).normal(size=(EXPERTS * CAPACITY, SIZE)).astype(np.float32)
    plain, weighted = np.zeros((2, TOKENS, SIZE), np.float32)
    scalars = np.zeros((TOKENS, TOP_K), np.float32)
    for e, queue in enumerate(queues_by_hand(problem.experts_tk)):
        for c, (t, k) in enumerate(queue[places(index)]):
            row = rows_rd[e * CAPACITY + c]
            plain[t] += row
            weighted[t] += row * problem.weights_tk[t, k]
            scalars[t, k] = row[0]
    given = jnp.asarray(rows_rd)
    np.testing.assert_allclose(from_rows(given, None, at), plain, rtol=1e-6)
    weights_tk = jnp.asarray(problem.weights_tk)
    np.testing.assert_allclose(from_rows(given, weights_tk, at), weighted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scalars_from_rows(given[:, 0], at), scalars)


def test_windows_together_serve_every_choice_once(problem):
    queues = make_queues(jnp.asarray(problem.experts_tk), EXPERTS)
    valid = problem.experts_tk < EXPERTS
    seen = np.zeros((TOKENS, TOP_K), int)
    for index in range(-(-TOKENS // CAPACITY)):
        seen += np.asarray(window(queues, index, CAPACITY).row_tk) < EXPERTS * CAPACITY
    np.testing.assert_array_equal(seen, valid.astype(int))


def test_gradient_of_to_rows_sums_over_a_tokens_rows(problem):
    at = window(make_queues(jnp.asarray(problem.experts_tk), EXPERTS), 0, CAPACITY)
    scale_rd = jnp.arange(EXPERTS * CAPACITY * SIZE, dtype=jnp.float32).reshape(-1, SIZE)
    grad_td = jax.grad(lambda x: (to_rows(x, at) * scale_rd).sum())(jnp.asarray(problem.x_td))
    wanted = np.zeros((TOKENS, SIZE), np.float32)
    for e, queue in enumerate(queues_by_hand(problem.experts_tk)):
        for c, (t, _) in enumerate(queue[:CAPACITY]):
            wanted[t] += scale_rd[e * CAPACITY + c]
    np.testing.assert_allclose(grad_td, wanted, rtol=1e-6)
