"""One repetition of layers on several streams: values, counts, and what backward does again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.exchange.jaxprs import equations_of
from support.model_cases import EXPERTS, LENGTH, configured, parallel_of

from moe_jax.config.remat import KEEPABLE, remat_of
from moe_jax.model.pattern import LayerSpec
from moe_jax.model.unit import Unit, apply_unit
from moe_jax.sharding.params import with_gathers
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

LAYERS = (LayerSpec("dense", 0), LayerSpec("moe", 0), LayerSpec("moe", 4))
BATCH_SIZE, STREAMS = 2, 2
CONFIG = configured("exchange.transport=local")
PARALLEL = parallel_of(CONFIG)


@functools.cache
def unit() -> Unit:
    return Unit(CONFIG.model, CONFIG.precision, LAYERS, rngs=nnx.Rngs(params=0))


def inputs():
    rng = np.random.default_rng(0)
    shape = (STREAMS, BATCH_SIZE, LENGTH, CONFIG.model.d_model)
    xs = tuple(jnp.asarray(x) for x in rng.normal(size=shape).astype(np.float32))
    positions = (jnp.broadcast_to(jnp.arange(LENGTH), (BATCH_SIZE, LENGTH)),) * STREAMS
    return xs, positions, (jnp.ones_like(positions[0]),) * STREAMS


def applied(remat: str):
    """Returns (variables, streams) -> (streams, counts) on one device."""
    graphdefs, _ = unit().divide()
    _, *ids = inputs()

    def run(states, xs):
        states = with_gathers(states, PARALLEL.placement)
        mapped = on_device_shards(
            functools.partial(apply_unit, graphdefs, PARALLEL, remat),
            PARALLEL.mesh,
            in_specs=(jax.sharding.PartitionSpec(), BATCH, BATCH, BATCH),
            out_specs=(BATCH, BATCH),
        )
        return mapped(states, xs, *ids)

    return run


def one_after_the_other(xs, positions, segments):
    """Returns each stream after every block, and each block's counts per stream."""

    def local(xs, positions, segments):
        counts = []
        for block in unit().blocks:
            results = [block(*args, PARALLEL) for args in zip(xs, positions, segments, strict=True)]
            xs = tuple(x for x, _ in results)
            counts.append([stats for _, stats in results if stats is not None])
        return xs, counts

    specs = {"in_specs": BATCH, "out_specs": (BATCH, jax.sharding.PartitionSpec())}
    return jax.jit(on_device_shards(local, PARALLEL.mesh, **specs))(xs, positions, segments)


def test_divided_blocks_hold_the_units_variables():
    graphdefs, states = unit().divide()
    assert len(graphdefs) == len(states) == len(LAYERS)
    for block, graphdef, state in zip(unit().blocks, graphdefs, states, strict=True):
        whole = nnx.merge(graphdef, state)
        assert whole.kind == block.kind
        assert whole.attention.w_q_dhm[...] is block.attention.w_q_dhm[...]


def test_blocks_follow_each_other_on_every_stream_and_counts_add_up():
    xs, positions, segments = inputs()
    got, totals = jax.jit(applied("none"))(unit().divide()[1], xs)
    want, counts = one_after_the_other(xs, positions, segments)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert [len(each) for each in counts] == [0, STREAMS, STREAMS]
    assert len(totals) == 2, "one entry per MoE layer"
    for total, each in zip(totals, counts[1:], strict=True):
        load_e = sum(np.asarray(stats.exchange.load_e) for stats in each)
        np.testing.assert_array_equal(total.exchange.load_e, load_e[None])
        assert load_e.shape == (EXPERTS,)
        assert load_e.sum() == STREAMS * BATCH_SIZE * LENGTH * CONFIG.model.moe.top_k


def gradient(remat: str):
    def loss(states, xs):
        return sum(jnp.sum(x**2) for x in applied(remat)(states, xs)[0])

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize("remat", ["full", "dispatch", *KEEPABLE, remat_of(KEEPABLE)])
def test_computing_again_changes_no_gradient(remat):
    states, (xs, *_) = unit().divide()[1], inputs()
    got, want = (jax.tree.leaves(gradient(kind)(states, xs)) for kind in (remat, "none"))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_products_are_computed_again_only_where_the_config_says():
    states, (xs, *_) = unit().divide()[1], inputs()
    products = {}
    for kind in ("none", "full", "dispatch", "residual", "qkv", "mlp", remat_of(KEEPABLE)):
        equations = equations_of(jax.make_jaxpr(gradient(kind))(states, xs).jaxpr)
        products[kind] = sum(e.primitive.name == "dot_general" for e in equations)
    assert products["none"] <= products[remat_of(KEEPABLE)] < products["full"]
    assert products["dispatch"] <= products["full"]
    of_all = len(LAYERS) * STREAMS
    # The output projection; three before attention; the first of the dense layer's MLP.
    assert products["full"] - products["residual"] == of_all
    assert products["full"] - products["qkv"] == 3 * of_all
    assert products["full"] - products["mlp"] == STREAMS
