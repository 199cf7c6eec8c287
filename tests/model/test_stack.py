"""Stacked layers: what is stored, and that scan and pipeline run them in order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.model_cases import EXPERTS, LENGTH, configured, parallel_of

from moe_jax.model.pattern import LayerRun, LayerSpec
from moe_jax.model.pipeline import Schedule
from moe_jax.model.stack import Stack, _by_layer
from moe_jax.sharding.params import gathers_anything

RUN = LayerRun((LayerSpec("dense", 0), LayerSpec("moe", 0)), 3)
ROWS = 8


@functools.cache
def stack() -> Stack:
    config = configured()
    return Stack(config.model, config.precision, RUN, rngs=nnx.Rngs(params=0))


def through(*overrides: str):
    """Returns the streams after the stack, and its counts, on the mesh of the overrides."""
    config = configured("model.num_layers=6", 'model.layers=["dense","moe"]', *overrides)
    parallel = parallel_of(config)
    rng = np.random.default_rng(0)
    shape = (config.exchange.streams, ROWS, LENGTH, config.model.d_model)
    xs = tuple(jnp.asarray(x) for x in rng.normal(size=shape).astype(np.float32))
    ids = (jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH)),) * len(xs)
    ones = (jnp.ones_like(ids[0]),) * len(xs)
    graphdef, state = nnx.split(stack())

    def run(state, xs):
        return nnx.merge(graphdef, state)(xs, ids, ones, parallel, "none")

    streams, counts = jax.jit(run)(state, xs)
    return [np.asarray(x) for x in streams], jax.tree.map(np.asarray, counts)


def test_parameters_of_all_repetitions_share_an_array_and_begin_different():
    variable = stack().unit.blocks[1].moe.experts.w_up_edf
    assert variable.axes == ("layers", "experts", "embed", "mlp")
    assert variable.shape[:2] == (RUN.repeats, EXPERTS)
    first, second, third = np.asarray(variable[...])
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_counts_have_one_entry_per_moe_layer_of_the_unit_by_repetition_and_device():
    _, counts = through("mesh.expert=4")
    assert len(counts) == 1
    assert counts[0].exchange.load_e.shape == (RUN.repeats, 4, EXPERTS)
    tokens = ROWS * LENGTH * configured().model.moe.top_k
    np.testing.assert_array_equal(counts[0].exchange.load_e.sum(axis=(1, 2)), tokens)


def test_a_scan_is_the_units_one_after_the_other():
    """A stack of one repetition at a time, with that repetition's part of the arrays."""
    (want,), _ = through("exchange.transport=local")
    graphdef, state = nnx.split(stack().unit)
    parallel = parallel_of(configured("exchange.transport=local"))
    config = configured()
    rng = np.random.default_rng(0)
    shape = (1, ROWS, LENGTH, config.model.d_model)
    xs = tuple(jnp.asarray(x) for x in rng.normal(size=shape).astype(np.float32))
    ids = (jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH)),)
    for layer in range(RUN.repeats):
        single = nnx.clone(stack())
        single.layers = LayerRun(RUN.unit, 1)
        single.unit = nnx.merge(graphdef, jax.tree.map(lambda a, i=layer: a[i : i + 1], state))
        xs, _ = single(xs, ids, (jnp.ones_like(ids[0]),), parallel, "none")
    np.testing.assert_allclose(xs[0], want, rtol=1e-4, atol=1e-5)


def test_a_pipeline_gives_what_the_scan_gives():
    """3 repetitions in 2 groups, so that one of them has an empty place."""
    want, counted = through("mesh.expert=4")
    got, counts = through("mesh.expert=4", "mesh.pipe=2")
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    load, wanted = (each[0].exchange.load_e.sum(axis=1) for each in (counts, counted))
    np.testing.assert_array_equal(load, wanted)


def test_a_pipelines_layers_gather_nothing_over_its_stages():
    parallel = parallel_of(configured("mesh.pipe=2", "model.num_layers=3"))
    for pipe in (True, False):
        _, states = stack().divide(parallel, pipe=pipe)
        assert gathers_anything(states) == pipe, "3 layers on 2 stages are stored by d_model"


def test_counts_of_stages_and_rounds_return_to_the_order_of_layers():
    schedule = Schedule(stages=2, rounds=2, microbatches=2, layers=7)
    # Layer l is place l % 2 of group l // 2, which is round g // 2 of stage g % 2.
    counts = np.zeros((2, 2, 2, 1), int)
    for layer in range(8):
        group, place = divmod(layer, 2)
        counts[group % 2, group // 2, place, 0] = layer
    np.testing.assert_array_equal(_by_layer(schedule, jnp.asarray(counts))[:, 0], np.arange(7))
