"""Queues and windows against a loop that appends choices to lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.exchange.exchange_reference import ROUTINGS, make_problem

from moe_jax.moe.exchange.rows import (
    from_rows,
    make_queues,
    packed_window,
    padded_window,
    to_rows,
    token_of,
    weights_to_rows,
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


def padded(problem, index: int):
    queues = make_queues(jnp.asarray(problem.experts_tk), EXPERTS)
    return padded_window(queues, index * CAPACITY, CAPACITY)


def test_queues_hold_choices_k_major_then_by_token(problem):
    queues = make_queues(jnp.asarray(problem.experts_tk), EXPERTS)
    for e, wanted in enumerate(queues_by_hand(problem.experts_tk)):
        start, length = int(queues.start_g[e]), int(queues.length_g[e])
        numbers = np.asarray(queues.order_r)[start : start + length]
        assert [(int(n) % TOKENS, int(n) // TOKENS) for n in numbers] == wanted
        assert [int(queues.rank_tk[t, k]) for t, k in wanted] == list(range(length))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_padded_window_holds_the_same_places_of_every_queue(problem, index):
    at = padded(problem, index)
    served = [queue[places(index)] for queue in queues_by_hand(problem.experts_tk)]
    rows = np.zeros((EXPERTS, CAPACITY, SIZE), np.float32)
    weights, tokens = np.zeros(rows.shape[:2], np.float32), np.full(rows.shape[:2], TOKENS)
    row_of = np.full((TOKENS, TOP_K), EXPERTS * CAPACITY)
    for e, choices in enumerate(served):
        for c, (t, k) in enumerate(choices):
            rows[e, c], weights[e, c] = problem.x_td[t], problem.weights_tk[t, k]
            row_of[t, k], tokens[e, c] = e * CAPACITY + c, t
    np.testing.assert_array_equal(at.row_tk, row_of)
    np.testing.assert_array_equal(token_of(at), tokens.ravel())
    np.testing.assert_array_equal(to_rows(jnp.asarray(problem.x_td), at), rows.reshape(-1, SIZE))
    np.testing.assert_array_equal(
        weights_to_rows(jnp.asarray(problem.weights_tk), at), weights.ravel()
    )


@pytest.mark.parametrize("first", [0, 5, 20])
def test_a_packed_window_holds_the_queues_one_after_another(problem, first):
    rows = 7
    queues = make_queues(jnp.asarray(problem.experts_tk), EXPERTS)
    at, sizes_e = packed_window(queues, first, rows)
    by_expert = queues_by_hand(problem.experts_tk)
    everyone = [(e, *choice) for e, queue in enumerate(by_expert) for choice in queue]
    here = everyone[first : first + rows]
    row_of = np.full((TOKENS, TOP_K), rows)
    for r, (_, t, k) in enumerate(here):
        row_of[t, k] = r
    np.testing.assert_array_equal(at.row_tk, row_of)
    np.testing.assert_array_equal(
        sizes_e, np.bincount([e for e, _, _ in here], minlength=EXPERTS)[:EXPERTS]
    )
    tokens = [t for _, t, _ in here] + [TOKENS] * (rows - len(here))
    np.testing.assert_array_equal(token_of(at), tokens)


@pytest.mark.parametrize("index", [0, 1])
def test_from_rows_sums_each_tokens_rows(problem, index):
    at = padded(problem, index)
    rows_rd = np.random.default_rng(0).normal(size=(EXPERTS * CAPACITY, SIZE)).astype(np.float32)
    wanted = np.zeros((TOKENS, SIZE), np.float32)
    for e, queue in enumerate(queues_by_hand(problem.experts_tk)):
        for c, (t, _) in enumerate(queue[places(index)]):
            wanted[t] += rows_rd[e * CAPACITY + c]
    np.testing.assert_allclose(from_rows(jnp.asarray(rows_rd), at), wanted, rtol=1e-6)


def test_windows_together_serve_every_choice_once(problem):
    valid = problem.experts_tk < EXPERTS
    seen = np.zeros((TOKENS, TOP_K), int)
    for index in range(-(-TOKENS // CAPACITY)):
        seen += np.asarray(padded(problem, index).row_tk) < EXPERTS * CAPACITY
    np.testing.assert_array_equal(seen, valid.astype(int))


def test_gradients_are_the_moves_back(problem):
    """Of `to_rows` the sum over a token's rows, of `from_rows` each row's token, of weights one."""
    at = padded(problem, 0)
    x_td, weights_tk = jnp.asarray(problem.x_td), jnp.asarray(problem.weights_tk)
    scale_rd = jnp.arange(EXPERTS * CAPACITY * SIZE, dtype=jnp.float32).reshape(-1, SIZE)
    scale_r = scale_rd[:, 0]
    grad_td = jax.grad(lambda x: (to_rows(x, at) * scale_rd).sum())(x_td)
    grad_rd = jax.grad(lambda rows: (from_rows(rows, at) * x_td).sum())(scale_rd)
    grad_tk = jax.grad(lambda w: (weights_to_rows(w, at) * scale_r).sum())(weights_tk)
    np.testing.assert_allclose(grad_td, from_rows(scale_rd, at), rtol=1e-6)
    np.testing.assert_array_equal(grad_rd, to_rows(x_td, at))
    wanted = np.zeros((TOKENS, TOP_K), np.float32)
    for e, queue in enumerate(queues_by_hand(problem.experts_tk)):
        for c, (t, k) in enumerate(queue[:CAPACITY]):
            wanted[t, k] = scale_r[e * CAPACITY + c]
    np.testing.assert_array_equal(grad_tk, wanted)
