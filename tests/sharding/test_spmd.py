"""What a function sees of arrays on each device, and how gradients leave it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from support.exchange.jaxprs import equations_of

from moe_jax.axes import AXES
from moe_jax.config.schema import MeshConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

X = np.arange(16, dtype=np.float32).reshape(8, 2)


def mesh(**sizes: int):
    return build_mesh(MeshConfig(**sizes), jax.devices())


def reduced_over(loss, w) -> list[int]:
    """Returns over how many devices each all-reduce of the gradient sums, if over several."""
    sizes = []
    for eqn in equations_of(jax.make_jaxpr(jax.grad(loss))(w).jaxpr):
        if "shard_map" in str(eqn.primitive):
            shape = eqn.params["mesh"].shape
            inside = [e for e in equations_of(eqn.params["jaxpr"]) if "psum" in str(e.primitive)]
            sizes += [math.prod(shape[axis] for axis in e.params["axes"]) for e in inside]
    return [size for size in sizes if size > 1]


def test_each_device_sees_its_rows_and_all_axes_by_name():
    def local(x):
        index = sum(jax.lax.axis_index(axis) for axis in AXES)
        return x + 0 * index.astype(x.dtype), jnp.full((1,), x.shape[0])

    mapped = on_device_shards(
        local, mesh(data=2, expert=4), in_specs=BATCH, out_specs=(BATCH, BATCH)
    )
    got, rows = jax.jit(mapped)(X)
    np.testing.assert_array_equal(got, X)
    np.testing.assert_array_equal(rows, [1] * 8)


def test_the_gradient_of_a_copy_is_summed_over_its_holders_once_however_often_it_is_used():
    w = np.float32(3)

    def loss(w):
        def local(w, x):
            return ((w * x).sum() + (w * w * x).sum())[None]

        mapped = on_device_shards(
            local, mesh(expert=8), in_specs=(PartitionSpec(), BATCH), out_specs=BATCH
        )
        return mapped(w, X).sum()

    np.testing.assert_allclose(jax.grad(loss)(w), X.sum() * (1 + 2 * w))
    assert reduced_over(loss, w) == [8]


def test_a_split_arrays_gradient_stays_where_it_is():
    def loss(w):
        mapped = on_device_shards(
            lambda w, x: (w * x).sum()[None],
            mesh(expert=8),
            in_specs=(BATCH, BATCH),
            out_specs=BATCH,
        )
        return mapped(w, X).sum()

    np.testing.assert_array_equal(jax.grad(loss)(np.ones_like(X)), X)
    assert not reduced_over(loss, np.ones_like(X))
