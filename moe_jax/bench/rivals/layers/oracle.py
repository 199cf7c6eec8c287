"""The layer in float32, every expert on every token: slow, and plain enough to be believed."""

import functools

import jax
import jax.numpy as jnp

from moe_jax.bench.rivals.hashed import jax_maker
from moe_jax.bench.rivals.layers.inputs import jax_inputs
from moe_jax.bench.rivals.problem import LayerProblem
from moe_jax.bench.rivals.trial import JaxTrial


def oracle(problem: LayerProblem, routing: str) -> JaxTrial:
    """Return the layer in float32 on weights and tokens that are rounded to the problem's dtype.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
    """
    weights = jax.jit(lambda: problem.weights(jax_maker(problem.dtype)))()
    router = jnp.asarray(problem.router())
    inputs = jax_inputs(problem, routing)

    @jax.jit
    def both(weights, router_de, x_td, dy_td):
        wide = jax.tree.map(lambda a: a.astype(jnp.float32), (weights, router_de, x_td))
        y_td, pull = jax.vjp(functools.partial(_layer, problem), *wide)
        return y_td, *pull(dy_td.astype(jnp.float32))

    def call() -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest"):
            y_td, grads, drouter_de, dx_td = both(weights, router, *inputs)
        named = {f"d{name.split('_')[0]}": grad for name, grad in grads.items()}
        return {"y": y_td, "dx": dx_td, "drouter": drouter_de, **named}

    return JaxTrial(call)


def _layer(problem: LayerProblem, weights, router_de, x_td) -> jax.Array:
    probs_te = jax.nn.softmax(x_td @ router_de)
    weights_tk, chosen_tk = jax.lax.top_k(probs_te, problem.top_k)
    if problem.normalize:
        weights_tk = weights_tk / weights_tk.sum(-1, keepdims=True)
    tokens = jnp.arange(problem.tokens)[:, None]
    combine_te = jnp.zeros_like(probs_te).at[tokens, chosen_tk].set(weights_tk)

    @jax.checkpoint
    def expert(gate_df, up_df, down_fd, weight_t):
        return weight_t[:, None] * ((jax.nn.silu(x_td @ gate_df) * (x_td @ up_df)) @ down_fd)

    def add(y_td, operands):
        return y_td + expert(*operands), None

    operands = (weights["gate_edf"], weights["up_edf"], weights["down_efd"], combine_te.T)
    return jax.lax.scan(add, jnp.zeros_like(x_td), operands)[0]
