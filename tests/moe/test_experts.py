"""The experts' MLPs over sorted rows against one NumPy MLP per expert, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moe_jax.config import Config, override
from moe_jax.moe.experts import Experts, split

EXPERTS, SIZE, HIDDEN = 3, 4, 6
#: Rows of each expert; two more are nobody's.
SIZES = (3, 0, 5)
ROWS = sum(SIZES) + 2
EXPERT_OF_ROW = np.repeat(range(EXPERTS), SIZES)


def sizes(bias: str) -> list[str]:
    return [
        f"model.d_model={SIZE}",
        f"model.moe.d_ff={HIDDEN}",
        f"model.moe.bias={bias}",
        "model.init_std=0.7",
    ]


def make_rows() -> tuple[jax.Array, jax.Array]:
    """Returns rows and their weights; nobody's rows are not 0, their weights are."""
    rng = np.random.default_rng(0)
    weights = np.concatenate([rng.uniform(0.1, 1, sum(SIZES)), [0, 0]])
    rows = rng.normal(size=(ROWS, SIZE))
    return jnp.asarray(rows, jnp.float32), jnp.asarray(weights, jnp.float32)


def apply(experts: Experts, rows_rd: jax.Array, weights_r: jax.Array, counts=SIZES) -> jax.Array:
    sizes_l = jnp.array(counts, jnp.int32)
    return experts.down(experts.up(rows_rd, sizes_l), sizes_l, weights_r, first=True)


def make_experts(activation: str, bias: str) -> Experts:
    config = override(
        Config(),
        [
            f"model.moe.num_experts={EXPERTS}",
            f"model.moe.activation={activation}",
            *sizes(bias),
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
    rows_rd, weights_r = make_rows()
    out_rd = np.asarray(apply(experts, rows_rd, weights_r))
    gated = activation in ("swiglu", "geglu")
    for r, e in enumerate(EXPERT_OF_ROW):
        row = np.asarray(rows_rd[r], np.float64)
        up = row @ np.asarray(experts.w_up_edf[e], np.float64)
        gate = row @ np.asarray(experts.w_gate_edf[e], np.float64) if gated else None
        if bias == "all":
            up = up + np.asarray(experts.b_up_ef[e])
        wanted = act(activation, up, gate) @ np.asarray(experts.w_down_efd[e], np.float64)
        if bias == "all":
            wanted = wanted + np.asarray(experts.b_down_ed[e])
        np.testing.assert_allclose(out_rd[r], float(weights_r[r]) * wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out_rd[sum(SIZES) :], 0)


@pytest.mark.parametrize("bias", ["none", "all"])
def test_the_only_expert_takes_all_rows_without_counts(bias):
    config = override(Config(), ["model.moe.num_experts=1", "model.moe.top_k=1", *sizes(bias)])
    experts = Experts(config.model, config.precision, rngs=nnx.Rngs(0))
    rows_rd, weights_r = make_rows()
    counted = apply(experts, rows_rd, weights_r, (ROWS,))
    plain = experts.down(experts.up(rows_rd, None), None, weights_r, first=True)
    np.testing.assert_allclose(plain, counted, rtol=1e-5, atol=1e-6)


def test_only_the_first_of_those_that_share_an_expert_adds_its_bias():
    experts = make_experts("gelu", "all")
    rows_rd, weights_r = make_rows()
    sizes_l = jnp.array(SIZES, jnp.int32)
    hidden = experts.up(rows_rd, sizes_l)
    first, other = (experts.down(hidden, sizes_l, weights_r, first=f) for f in (True, False))
    bias_rd = np.asarray(experts.b_down_ed[...])[EXPERT_OF_ROW]
    wanted = bias_rd * np.asarray(weights_r)[: sum(SIZES), None]
    np.testing.assert_allclose((first - other)[: sum(SIZES)], wanted, rtol=1e-4, atol=1e-5)


def test_only_gated_activations_have_a_third_matrix():
    assert not hasattr(make_experts("gelu", "none"), "w_gate_edf")
    assert make_experts("swiglu", "none").w_gate_edf.shape == (EXPERTS, SIZE, HIDDEN)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_gradients_equal_those_of_plain_einsums(activation):
    experts = make_experts(activation, "none")
    rows_rd, weights_r = make_rows()
    graphdef, state = nnx.split(experts)
    one_hot_rl = jnp.asarray(np.eye(EXPERTS)[EXPERT_OF_ROW], jnp.float32)
    one_hot_rl = jnp.pad(one_hot_rl, ((0, 2), (0, 0)))

    def ours(state, rows_rd, weights_r):
        return jnp.square(apply(nnx.merge(graphdef, state), rows_rd, weights_r)).sum()

    def product(rows, w):
        return jnp.einsum("ri,lio,rl->ro", rows, w[...], one_hot_rl)

    def plain(state, rows_rd, weights_r):
        hidden = product(rows_rd, state["w_up_edf"])
        if activation == "gelu":
            hidden = jax.nn.gelu(hidden)
        else:
            hidden = hidden * jax.nn.silu(product(rows_rd, state["w_gate_edf"]))
        return jnp.square(product(hidden, state["w_down_efd"]) * weights_r[:, None]).sum()

    args = (state, rows_rd, weights_r)
    grads = [jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*args) for f in (ours, plain)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_split_gives_parameters_and_a_computation_without_them():
    experts = make_experts("swiglu", "all")
    rows_rd, weights_r = make_rows()
    sizes_l = jnp.array(SIZES, jnp.int32)
    params, experts_fn = split(experts)
    hidden = experts_fn.up(params, rows_rd, sizes_l)
    out_rd = experts_fn.down(params, hidden, sizes_l, weights_r)
    np.testing.assert_array_equal(out_rd, apply(experts, rows_rd, weights_r))


def test_computes_in_the_compute_dtype():
    config = override(Config(), ["precision.compute=bfloat16", "model.d_model=8"])
    experts = Experts(config.model, config.precision, rngs=nnx.Rngs(0))
    assert experts.w_up_edf.dtype == jnp.float32
    rows_rd, counts = jnp.ones((4, 8), jnp.bfloat16), (4,) + (0,) * 7
    assert apply(experts, rows_rd, jnp.ones(4), counts).dtype == jnp.bfloat16
