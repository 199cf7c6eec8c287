"""The exchange contract in NumPy float64: a loop over experts, and counting by hand.

Independent of `moe_jax` on purpose: no sorting, no rows, no devices. What a transport's queues look
like (which tokens share one, how many rows they serve) is told by the arguments.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Inputs of all devices: tokens in device order, and one two-matrix tanh MLP per expert."""

    x_td: np.ndarray
    experts_tk: np.ndarray
    weights_tk: np.ndarray
    w_in_edf: np.ndarray
    w_out_efd: np.ndarray
    #: The gradient of the loss with respect to y.
    grad_td: np.ndarray


@dataclass(frozen=True)
class Answer:
    """The value, and the gradients of sum(grad_td * y_td)."""

    y_td: np.ndarray
    x_td: np.ndarray
    weights_tk: np.ndarray
    w_in_edf: np.ndarray
    w_out_efd: np.ndarray


def solve(problem: Problem, served_tk: np.ndarray) -> Answer:
    """Returns y_t = sum_k weights_tk expert(x_t) over the served choices, and its gradients."""
    p = Problem(**{name: np.asarray(a, np.float64) for name, a in vars(problem).items()})
    y, grad_x = np.zeros_like(p.x_td), np.zeros_like(p.x_td)
    grad_weights = np.zeros_like(p.weights_tk)
    grad_in, grad_out = np.zeros_like(p.w_in_edf), np.zeros_like(p.w_out_efd)
    for e in range(len(p.w_in_edf)):
        mine_tk = served_tk & (problem.experts_tk == e)
        share_t = (p.weights_tk * mine_tk).sum(axis=1, keepdims=True)
        hidden = np.tanh(p.x_td @ p.w_in_edf[e])
        out = hidden @ p.w_out_efd[e]
        y += share_t * out
        grad_weights += mine_tk * (p.grad_td * out).sum(axis=1, keepdims=True)
        grad_o = share_t * p.grad_td
        grad_hidden = (grad_o @ p.w_out_efd[e].T) * (1 - hidden**2)
        grad_out[e] = hidden.T @ grad_o
        grad_in[e] = p.x_td.T @ grad_hidden
        grad_x += grad_hidden @ p.w_in_edf[e].T
    return Answer(y, grad_x, grad_weights, grad_in, grad_out)


ROUTINGS = ("balanced", "skewed", "hot", "empty", "random")


def make_problem(routing: str, tokens: int, experts: int, top_k: int, size: int) -> Problem:
    """Returns random inputs under one of `ROUTINGS`; a token's choices are always distinct."""
    rng = np.random.default_rng([ROUTINGS.index(routing), tokens, experts, top_k])
    f = size + 2
    return Problem(
        x_td=rng.normal(size=(tokens, size)).astype(np.float32),
        experts_tk=_choices(routing, tokens, experts, top_k, rng),
        weights_tk=rng.uniform(0.1, 1.0, size=(tokens, top_k)).astype(np.float32),
        w_in_edf=(rng.normal(size=(experts, size, f)) / size**0.5).astype(np.float32),
        w_out_efd=(rng.normal(size=(experts, f, size)) / f**0.5).astype(np.float32),
        grad_td=rng.normal(size=(tokens, size)).astype(np.float32),
    )


def _choices(
    routing: str, tokens: int, experts: int, top_k: int, rng: np.random.Generator
) -> np.ndarray:
    if routing == "balanced":
        first = np.arange(tokens)[:, None] * top_k
        return ((first + np.arange(top_k)) % experts).astype(np.int32)
    popularity = np.zeros(experts)
    if routing == "skewed":
        popularity = -2.0 * np.log1p(np.arange(experts))
    elif routing == "hot":
        popularity[experts // 2] = 100.0
    elif routing == "empty":
        popularity[max(top_k, experts // 2) :] = -100.0
    scores = popularity + rng.gumbel(size=(tokens, experts))
    return np.argsort(-scores, axis=1)[:, :top_k].astype(np.int32)
