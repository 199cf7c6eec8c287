"""Running a function with parameters as they are stored, and gathered."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from moe_jax.axes import BATCH_AXES
from moe_jax.config.schema import MeshConfig, ShardingConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.sharding.regions import Placed, run_gathered, run_stored
from moe_jax.sharding.rules import BATCH, Placement

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


@dataclass(frozen=True)
class Somewhere:
    mesh: Mesh
    placement: Placement


class Linear(nnx.Module):
    def __init__(self):
        values = np.arange(32, dtype=np.float32).reshape(8, 4)
        self.w = nnx.Param(jnp.asarray(values), axes=("embed", "heads"))


def somewhere() -> Somewhere:
    mesh = build_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    return Somewhere(mesh, Placement(dict(mesh.shape), ShardingConfig()))


def test_any_mesh_with_a_placement_will_do():
    assert isinstance(somewhere(), Placed)


def test_stored_parameters_arrive_split():
    _, state = nnx.split(Linear())

    def local(state, x):
        assert state["w"].shape == (4, 2)
        return x * 2, state["w"][...]

    doubled, w = run_stored(
        local,
        somewhere(),
        state,
        X,
        in_specs=(BATCH,),
        out_specs=(BATCH, PartitionSpec("fsdp", "tensor")),
    )
    np.testing.assert_array_equal(doubled, 2 * X)
    np.testing.assert_array_equal(w, state["w"][...])


def product(module, x):
    return run_gathered(
        lambda module, x: x @ module.w[...],
        somewhere(),
        module,
        x,
        in_specs=(BATCH,),
        out_specs=PartitionSpec(BATCH_AXES, "tensor"),
    )


def test_a_gathered_module_is_whole_but_for_the_tensor_axis():
    def local(module, x):
        assert module.w.shape == (8, 2)
        return x

    run_gathered(local, somewhere(), Linear(), X, in_specs=(BATCH,), out_specs=BATCH)
    np.testing.assert_allclose(product(Linear(), X), X @ np.asarray(Linear().w[...]), rtol=1e-5)


def test_several_modules_may_come_as_a_tuple():
    first, second = run_gathered(
        lambda modules, x: tuple(x @ module.w[...] for module in modules),
        somewhere(),
        (Linear(), Linear()),
        X,
        in_specs=(BATCH,),
        out_specs=PartitionSpec(BATCH_AXES, "tensor"),
    )
    np.testing.assert_array_equal(first, second)


def test_the_gradient_is_that_of_the_whole_product():
    graphdef, state = nnx.split(Linear())

    def loss(state):
        return (product(nnx.merge(graphdef, state), X) ** 2).sum()

    want = jax.grad(lambda w: ((X @ w) ** 2).sum())(state["w"][...])
    np.testing.assert_allclose(jax.grad(loss)(state)["w"][...], want, rtol=1e-4)
