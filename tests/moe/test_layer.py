"""A whole MoE layer on one device: routed experts, shared experts, and what it counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh

from moe_jax.axes import AXES
from moe_jax.config import Config, override
from moe_jax.moe.exchange import Exchange
from moe_jax.moe.exchange.choose import make_spec
from moe_jax.moe.experts import Experts
from moe_jax.moe.layer import MoeLayer
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

BATCH_SIZE, LENGTH, SIZE, EXPERTS = 2, 5, 8, 4


def make_layer(*settings: str) -> MoeLayer:
    config = override(
        Config(),
        [
            f"model.d_model={SIZE}",
            f"model.moe.num_experts={EXPERTS}",
            "model.moe.d_ff=6",
            "model.init_std=0.5",
            *settings,
        ],
    )
    return MoeLayer(config.model, config.precision, rngs=nnx.Rngs(0))


def apply(layer: MoeLayer, x_bsd: jax.Array, valid_bs: jax.Array | None = None):
    """Runs the layer as the model does; the counts' leading dimension is the one device."""
    grid = np.array(jax.devices()[:1]).reshape((1,) * len(AXES))
    mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    exchange = Exchange(make_spec(Config().exchange, "local", EXPERTS, 1, (0,)))

    def local(x):
        y, stats = layer(x, exchange, valid_bs=valid_bs)
        return y, jax.tree.map(lambda leaf: leaf[None], stats)

    return jax.jit(on_device_shards(local, mesh, in_specs=BATCH, out_specs=(BATCH, BATCH)))(x_bsd)


def tokens() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (BATCH_SIZE, LENGTH, SIZE))


def every_token(experts: Experts, expert: int, x_td: jax.Array) -> np.ndarray:
    """Returns the expert's output for all tokens."""
    sizes_l = jnp.zeros(EXPERTS, jnp.int32).at[expert].set(len(x_td))
    hidden = experts.up(x_td, sizes_l)
    return np.asarray(experts.down(hidden, sizes_l, jnp.ones(len(x_td)), first=True))


def by_hand(layer: MoeLayer, x_bsd: jax.Array) -> np.ndarray:
    """Sums each token's experts, every expert applied to every token."""
    x_td = x_bsd.reshape(-1, SIZE)
    routing = layer.router(x_td).routing
    out_etd = np.stack([every_token(layer.experts, e, x_td) for e in range(EXPERTS)])
    y_td = np.zeros(x_td.shape, np.float64)
    for t, chosen in enumerate(np.asarray(routing.experts_tk)):
        for k, e in enumerate(chosen):
            y_td[t] += float(routing.weights_tk[t, k]) * out_etd[e, t]
    return y_td.reshape(x_bsd.shape)


def test_output_is_the_weighted_sum_of_the_chosen_experts():
    layer = make_layer()
    y_bsd, _ = apply(layer, tokens())
    np.testing.assert_allclose(y_bsd, by_hand(layer, tokens()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_shared_experts_are_one_wider_mlp_that_every_token_visits(activation):
    layer = make_layer("model.moe.shared_experts=2", f"model.moe.activation={activation}")
    assert layer.shared.w_up_df.shape == (SIZE, 2 * 6)
    y_bsd, _ = apply(layer, tokens())
    shared = np.asarray(layer.shared(tokens()))
    np.testing.assert_allclose(y_bsd - shared, by_hand(layer, tokens()), rtol=1e-4, atol=1e-5)
    assert np.abs(shared).max() > 1e-3


def test_counts_cover_every_choice():
    layer = make_layer()
    _, stats = apply(layer, tokens())
    routing = layer.router(tokens().reshape(-1, SIZE)).routing
    load = np.bincount(np.asarray(routing.experts_tk).ravel(), minlength=EXPERTS)
    np.testing.assert_array_equal(stats.exchange.load_e[0], load)
    np.testing.assert_array_equal(stats.balance.load_e[0], load)
    assert float(stats.balance.tokens[0]) == BATCH_SIZE * LENGTH
    assert float(stats.balance.sequences[0]) == BATCH_SIZE
    assert float(stats.exchange.rows_dropped[0]) == 0


def test_padding_takes_the_experts_in_turn_and_adds_nothing():
    layer, x_bsd = make_layer(), tokens()
    padded = jnp.broadcast_to(x_bsd[:, :1], x_bsd.shape)
    valid = jnp.arange(LENGTH) < jnp.array([[1], [2]])
    y_bsd, stats = apply(layer, padded, valid)
    np.testing.assert_allclose(
        y_bsd, by_hand(layer, padded) * np.asarray(valid)[..., None], rtol=1e-4, atol=1e-5
    )
    # Ten tokens of two kinds would load at most four of the experts, as they are.
    spread = np.asarray(stats.exchange.load_e).reshape(-1)
    assert spread.sum() == 20
    assert spread.min() >= 3
