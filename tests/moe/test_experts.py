"""The experts' batched MLP against one NumPy MLP per expert, and its hand-laid gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moe_jax.config import Config, override
from moe_jax.moe.experts import Experts

EXPERTS, ROWS, SIZE, HIDDEN = 3, 5, 4, 6


def make_experts(activation: str, bias: str) -> Experts:
    config = override(
        Config(),
        [
            f"model.moe.num_experts={EXPERTS}",
            f"model.d_model={SIZE}",
            f"model.moe.d_ff={HIDDEN}",
            f"model.moe.activation={activation}",
            f"model.moe.bias={bias}",
            "model.init_std=0.7",
        ],
    )
    experts = Experts(config.model, config.precision, rngs=nnx.Rngs(0))
    if bias == "all":
        experts.b_up_ef[...] = jnp.arange(EXPERTS * HIDDEN, dtype=jnp.float32).reshape(3, -1) / 9
        experts.b_down_ed[...] = jnp.arange(EXPERTS * SIZE, dtype=jnp.float32).reshape(3, -1)
    return experts


def act(activation: str, up: np.ndarray, gate: np.ndarray | None) -> np.ndarray:
    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def silu(x):
        return x / (1 + np.exp(-x))

    if activation in ("swiglu", "geglu"):
        return {"swiglu": silu, "geglu": gelu}[activation](gate) * up
    return {"gelu": gelu, "silu": silu, "relu": lambda x: np.maximum(x, 0)}[activation](up)


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "swiglu", "geglu"])
@pytest.mark.parametrize("bias", ["none", "all"])
def test_each_expert_is_its_own_mlp(activation, bias):
    experts = make_experts(activation, bias)
    rows_lrd = np.random.default_rng(0).normal(size=(EXPERTS, ROWS, SIZE)).astype(np.float32)
    out_lrd = np.asarray(experts(jnp.asarray(rows_lrd)))
    gated = activation in ("swiglu", "geglu")
    for e, rows in enumerate(rows_lrd.astype(np.float64)):
        up = rows @ np.asarray(experts.w_up_edf[e], np.float64)
        gate = rows @ np.asarray(experts.w_gate_edf[e], np.float64) if gated else None
        if bias == "all":
            up = up + np.asarray(experts.b_up_ef[e])
        wanted = act(activation, up, gate) @ np.asarray(experts.w_down_efd[e], np.float64)
        if bias == "all":
            wanted = wanted + np.asarray(experts.b_down_ed[e])
        np.testing.assert_allclose(out_lrd[e], wanted, rtol=1e-4, atol=1e-5)


def test_only_gated_activations_have_a_third_matrix():
    assert not hasattr(make_experts("gelu", "none"), "w_gate_edf")
    assert make_experts("swiglu", "none").w_gate_edf.shape == (EXPERTS, SIZE, HIDDEN)


def test_gradients_equal_those_of_plain_einsums():
    experts = make_experts("gelu", "none")
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(EXPERTS, ROWS, SIZE)), jnp.float32)
    graphdef, state = nnx.split(experts)

    def ours(state, rows):
        return jnp.square(nnx.merge(graphdef, state)(rows)).sum()

    def plain(state, rows):
        hidden = jax.nn.gelu(jnp.einsum("lrd,ldf->lrf", rows, state["w_up_edf"][...]))
        return jnp.square(jnp.einsum("lrf,lfd->lrd", hidden, state["w_down_efd"][...])).sum()

    grads = [jax.jit(jax.grad(f, argnums=(0, 1)))(state, rows) for f in (ours, plain)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_computes_in_the_compute_dtype():
    config = override(Config(), ["precision.compute=bfloat16", "model.d_model=8"])
    experts = Experts(config.model, config.precision, rngs=nnx.Rngs(0))
    assert experts.w_up_edf.dtype == jnp.float32
    assert experts(jnp.ones((8, 2, 8), jnp.bfloat16)).dtype == jnp.bfloat16
