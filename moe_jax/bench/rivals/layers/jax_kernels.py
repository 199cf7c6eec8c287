"""A plain JAX layer around JAX's own grouped products: what one writes without this project.

Tokens are permuted by gathers whose indices are known to be unique, so that their gradients need no
atomic additions; no custom rule but the one that Pallas kernels need.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moe_jax.bench.rivals.hashed import jax_maker
from moe_jax.bench.rivals.layers.inputs import jax_inputs
from moe_jax.bench.rivals.problem import LayerProblem
from moe_jax.bench.rivals.trial import JaxTrial

#: rows [r, i], weights [e, i, o], sizes [e] -> [r, o].
Product = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
#: The best of few that were tried on an H100 (377 TFLOP/s, and 492 of the weights' gradients).
_BLOCKS: dict[str, Any] = {
    "block_m": 128,
    "block_n": 128,
    "block_k": 64,
    "max_concurrent_steps": 4,
    "grid_block_n": 2,
}


def ragged_dot_layer(problem: LayerProblem, routing: str) -> JaxTrial:
    """Return the layer on `jax.lax.ragged_dot`.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
    """
    run = _run(problem, routing, jax.lax.ragged_dot)
    run.note = "ragged_dot computes every expert on every row here (FLOPs times experts)"
    return run


def mosaic_layer(problem: LayerProblem, routing: str) -> JaxTrial:
    """Return the layer on the Mosaic kernels in `jax.experimental.pallas.ops.gpu`.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
    """
    return _run(problem, routing, _mosaic_product())


def _mosaic_product() -> Product:
    from jax.experimental.pallas.ops.gpu import ragged_dot_mgpu, transposed_ragged_dot_mgpu

    def rows(x_ri, w_eio, sizes_e, transpose_rhs=False):
        return ragged_dot_mgpu.ragged_dot(
            x_ri, w_eio, group_sizes=sizes_e, transpose_rhs=transpose_rhs, **_BLOCKS
        )

    @jax.custom_vjp
    def product(x_ri, w_eio, sizes_e):
        return rows(x_ri, w_eio, sizes_e)

    def backward(saved, grad_ro):
        x_ri, w_eio, sizes_e = saved
        grad_w = transposed_ragged_dot_mgpu.transposed_ragged_dot(
            x_ri, grad_ro, group_sizes=sizes_e, **_BLOCKS
        )
        return rows(grad_ro, w_eio, sizes_e, transpose_rhs=True), grad_w, None

    product.defvjp(lambda *operands: (product(*operands), operands), backward)
    return product


def _run(problem: LayerProblem, routing: str, product: Product) -> JaxTrial:
    weights = jax.jit(lambda: problem.weights(jax_maker(problem.dtype)))()
    router = jnp.asarray(problem.router(), problem.dtype)
    x_td, dy_td = jax_inputs(problem, routing)

    @jax.jit
    def both(weights, router_de, x_td, dy_td):
        y_td, pull = jax.vjp(
            lambda *operands: _layer(problem, product, *operands), weights, router_de, x_td
        )
        return y_td, *pull(dy_td)

    def call() -> dict[str, jax.Array]:
        y_td, grads, drouter_de, dx_td = both(weights, router, x_td, dy_td)
        named = {f"d{name.split('_')[0]}": grad for name, grad in grads.items()}
        return {"y": y_td, "dx": dx_td, "drouter": drouter_de, **named}

    return JaxTrial(call)


def _layer(problem: LayerProblem, product: Product, weights, router_de, x_td) -> jax.Array:
    tokens, top_k = problem.tokens, problem.top_k
    logits_te = jnp.dot(x_td, router_de, preferred_element_type=jnp.float32)
    weights_tk, chosen_tk = jax.lax.top_k(jax.nn.softmax(logits_te), top_k)
    if problem.normalize:
        weights_tk = weights_tk / weights_tk.sum(-1, keepdims=True)
    order_r = jnp.argsort(chosen_tk.reshape(-1), stable=True)
    sizes_e = jnp.bincount(chosen_tk.reshape(-1), length=problem.experts).astype(jnp.int32)
    copies_rd = jnp.broadcast_to(x_td[:, None], (tokens, top_k, problem.d)).reshape(-1, problem.d)
    rows_rd = _permuted(copies_rd, order_r)
    gate_rf = product(rows_rd, weights["gate_edf"], sizes_e)
    up_rf = product(rows_rd, weights["up_edf"], sizes_e)
    out_rd = product(jax.nn.silu(gate_rf) * up_rf, weights["down_efd"], sizes_e)
    out_tkd = _permuted(out_rd, jnp.argsort(order_r)).reshape(tokens, top_k, problem.d)
    return (out_tkd * weights_tk[..., None]).sum(1).astype(x_td.dtype)


def _permuted(rows_rd: jax.Array, order_r: jax.Array) -> jax.Array:
    return rows_rd.at[order_r].get(unique_indices=True, mode="promise_in_bounds")
