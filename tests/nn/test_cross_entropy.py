"""Cross-entropy of logits and its gradient, against log-softmax differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from support.exchange.jaxprs import equations_of

from moe_jax.axes import TENSOR
from moe_jax.config.schema import MeshConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.nn.cross_entropy import cross_entropy, cross_entropy_with_gradient
from moe_jax.sharding.spmd import on_device_shards
from moe_jax.sharding.tensor import ONE, TensorAxis

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(5 * RNG.normal(size=(2, 3, 12)), jnp.float32)
IDS = jnp.array([[0, 11, 5], [3, 6, 2]], jnp.int32)
WEIGHTS = jnp.array([[0.5, 0.0, 2.0], [1.0, 1.0, 3.0]], jnp.float32)


def direct(logits):
    """Returns the weighted sum, and each loss."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), IDS[..., None], axis=-1)[..., 0]
    return -(WEIGHTS * picked).sum(), -picked


def on_axis(size: int, logits):
    """Losses and gradient with the vocabulary split over `size` devices."""
    vocabulary, axis = PartitionSpec(None, None, TENSOR), TensorAxis(size)
    mapped = on_device_shards(
        lambda x, ids, weights: cross_entropy_with_gradient(x, ids, weights, axis),
        build_mesh(MeshConfig(tensor=size), jax.devices()[:size]),
        in_specs=(vocabulary, PartitionSpec(), PartitionSpec()),
        out_specs=(PartitionSpec(), vocabulary),
    )
    return jax.jit(mapped)(logits, IDS, WEIGHTS)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_losses_and_gradient_are_those_of_log_softmax(size, shift):
    logits = LOGITS + jnp.float32(shift)
    wanted, losses = jax.grad(direct, has_aux=True)(logits)
    got_losses, got = on_axis(size, logits)
    np.testing.assert_allclose(got_losses, losses, rtol=1e-4 if shift else 1e-6, atol=1e-6)
    np.testing.assert_allclose(got, wanted, rtol=1e-3 if shift else 1e-5, atol=1e-6)


def test_losses_alone_are_the_same():
    alone = cross_entropy(LOGITS, IDS, ONE)
    np.testing.assert_array_equal(alone, cross_entropy_with_gradient(LOGITS, IDS, WEIGHTS, ONE)[0])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_shows(broken):
    losses = cross_entropy(LOGITS.at[0, 0, 3].set(broken), IDS, ONE)
    assert not np.isfinite(losses[0, 0])
    assert np.isfinite(losses[0, 1:]).all()


def test_gradient_scatters_nothing():
    """A scatter would need a float32 array of zeros as large as the logits."""
    traced = jax.make_jaxpr(lambda x: cross_entropy_with_gradient(x, IDS, WEIGHTS, ONE))(LOGITS)
    primitives = {str(eqn.primitive) for eqn in equations_of(traced)}
    assert "exp" in primitives
    assert not {name for name in primitives if "scatter" in name}
