"""Tokens and the gradient of the layer's output, as arrays of either framework."""

from typing import Any

import jax
import jax.numpy as jnp

from moe_jax.bench.rivals.hashed import jax_maker, torch_maker
from moe_jax.bench.rivals.problem import LayerProblem


def jax_inputs(problem: LayerProblem, routing: str) -> tuple[jax.Array, jax.Array]:
    """Return tokens that carry their routing, and the output's gradient: [tokens, d] each.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
    """
    logits_te = jnp.asarray(problem.logits(routing), problem.dtype)

    @jax.jit
    def create() -> tuple[jax.Array, jax.Array]:
        make, size = jax_maker(problem.dtype), (problem.tokens, problem.d)
        x_td, dy_td = make("x", size), make("dy", size)
        return x_td.at[:, : problem.experts].set(logits_te), dy_td

    return create()


def torch_inputs(problem: LayerProblem, routing: str, device: str) -> tuple[Any, Any]:
    """Return the same as torch tensors; the tokens require a gradient.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
        device: "cuda" or "cpu".
    """
    import torch

    make, size = torch_maker(problem.dtype, device), (problem.tokens, problem.d)
    x_td, dy_td = make("x", size), make("dy", size)
    x_td[:, : problem.experts] = torch.from_numpy(problem.logits(routing)).to(x_td)
    return x_td.requires_grad_(True), dy_td
