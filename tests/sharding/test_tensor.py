"""How activations get at a split matmul, on four devices of the tensor axis."""

import jax
import numpy as np
from jax.sharding import PartitionSpec

from moe_jax.axes import TENSOR
from moe_jax.config.schema import MeshConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.sharding.spmd import on_device_shards
from moe_jax.sharding.tensor import TensorAxis

SPLIT = PartitionSpec(None, TENSOR)
X = np.arange(24, dtype=np.float32).reshape(2, 12)


def run(function, out_specs):
    mesh = build_mesh(MeshConfig(tensor=4), jax.devices()[:4])
    return jax.jit(on_device_shards(function, mesh, in_specs=SPLIT, out_specs=out_specs))(X)


def test_own_takes_back_what_enter_gathered():
    tensor = TensorAxis(4, "split")
    np.testing.assert_array_equal(run(tensor.enter, PartitionSpec()), X)
    np.testing.assert_array_equal(run(lambda x: tensor.own(tensor.enter(x)), SPLIT), X)


def test_whole_sequences_are_everybodys_own():
    tensor = TensorAxis(4, "whole")
    np.testing.assert_array_equal(run(lambda x: tensor.own(tensor.enter(x)), SPLIT), X)
