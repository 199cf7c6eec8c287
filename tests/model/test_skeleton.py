"""Names, shapes, initial values and the way from arrays to a module and back."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from support.model_cases import arrays, configured, parallel_of

from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights

ALL_KINDS = (
    'model.layers=["dense", "moe", "moe"]',
    "model.num_layers=3",
    "model.moe.router.bias_update_rate=0.1",
    "model.moe.shared_experts=1",
)
UP = "stacks.1.unit.blocks.0.moe.experts.w_up_edf"


@functools.cache
def initial(experts: int, seed: int) -> Weights:
    """Compiling the random numbers takes seconds: once for all tests."""
    config = configured(f"mesh.expert={experts}", *ALL_KINDS)
    return Skeleton(config).init(seed, parallel_of(config).mesh)


def values(experts: int, seed: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in initial(experts, seed).by_name.items()}


@pytest.mark.slow
def test_initial_values_do_not_depend_on_the_mesh():
    one, eight = values(1, 0), values(8, 0)
    assert one.keys() == eight.keys()
    assert all(one[name].tobytes() == eight[name].tobytes() for name in one)


@pytest.mark.slow
def test_another_seed_changes_every_weight_and_nothing_else():
    one, other = values(1, 0), values(1, 1)
    changed = [name for name in one if not np.array_equal(one[name], other[name])]
    assert changed == [name for name in one if name.rsplit(".", 1)[-1].startswith("w_")]


@pytest.mark.slow
def test_layers_and_experts_start_different_with_the_configured_spread():
    up = values(1, 0)[UP]
    assert up.shape == (2, 8, 16, 12)
    assert up.std() == pytest.approx(0.2, rel=0.05)
    assert np.abs(np.corrcoef(up.reshape(16, -1)) - np.eye(16)).max() < 0.4


@pytest.mark.parametrize("overrides", [(), ALL_KINDS], ids=["moe", "all kinds"])
def test_merge_and_split_give_the_same_arrays(overrides):
    config = configured(*overrides)
    skeleton = Skeleton(config)
    weights = jax.device_put(arrays(skeleton))
    state = nnx.split(skeleton.merge(weights))[1]
    found = {".".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)}
    assert found.keys() == weights.by_name.keys()
    assert all(found[name] is value for name, value in weights.by_name.items())


@pytest.mark.slow
def test_abstract_values_describe_the_real_ones():
    config = configured("mesh.expert=8", *ALL_KINDS)
    skeleton = Skeleton(config)
    real, abstract = initial(8, 0), skeleton.abstract(parallel_of(config).mesh)
    described = jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), real)
    assert described == jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), abstract)
    assert skeleton.parameter_count() == sum(value.size for value in real.params.values())


@pytest.mark.slow
def test_each_device_stores_its_own_expert_only():
    shards = initial(8, 0).params[UP].addressable_shards
    assert {shard.data.shape[1] for shard in shards} == {1}
    assert {shard.index[1].start for shard in shards} == set(range(8))


def test_selection_biases_are_buffers_with_the_rows_of_their_layers():
    skeleton = Skeleton(configured(*ALL_KINDS))
    buffers = {name for name, info in skeleton.variables.items() if info.is_buffer}
    assert buffers == set(skeleton.buffer_rows)
    assert skeleton.buffer_rows == {"stacks.1.unit.blocks.0.moe.router.bias_e": [0, 1]}


def test_tied_embeddings_have_no_output_projection_of_their_own():
    names = {
        kind: Skeleton(configured(f"model.tie_embeddings={kind}")) for kind in ("tied", "untied")
    }
    assert "head.output.w_vd" in names["untied"].variables
    assert "head.output.w_vd" not in names["tied"].variables
