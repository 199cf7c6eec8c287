"""Arrays on the disk: they come back in their bits, in part, elsewhere; large ones in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.checkpoint_cases import abstract, assert_same_bits, make_state, mesh_of

from moe_jax.checkpoint import arrays, tree
from moe_jax.checkpoint.arrays import ArrayStore


@pytest.fixture
def store():
    made = ArrayStore()
    yield made
    made.close()


def written(store, path, flat):
    store.start_write(path, flat)
    store.wait()
    return path


def test_arrays_come_back_on_another_mesh_in_their_bits(store, tmp_path):
    flat = tree.flatten(make_state(3, mesh_of(8)))
    elsewhere = tree.flatten(make_state(0, mesh_of(2, 4)))
    path = written(store, tmp_path / "a", flat)
    read = store.read(path, abstract(elsewhere))
    assert_same_bits(read, flat)
    assert read["params/w"].sharding == elsewhere["params/w"].sharding


def test_what_is_not_wanted_is_not_read(store, tmp_path):
    flat = tree.flatten(make_state(3, mesh_of(8)))
    path = written(store, tmp_path / "a", flat)
    wanted = {"params/bias": abstract(flat)["params/bias"]}
    assert_same_bits(store.read(path, wanted), {"params/bias": flat["params/bias"]})


def stacked(shape, *spec):
    sharding = NamedSharding(mesh_of(8), P(*spec))
    return jax.device_put(jnp.zeros(shape, jnp.float32), sharding)


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("params/stacks.0.experts.w", (2, 8, 64), (0, 1)),
        ("params/stacks.0.attention.w", (2, 8, 64), (0,)),
        ("params/embedding", (16, 64), ()),
    ],
)
def test_only_stacked_arrays_are_cut_into_layers_and_experts(monkeypatch, name, shape, axes):
    monkeypatch.setattr(arrays, "CHUNK", 1024)
    assert tuple(arrays._save_args(name, stacked(shape)).shard_axes) == axes


def test_what_a_device_writes_is_measured_not_the_whole(monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 1024)
    whole = stacked((2, 8, 64), None, "a")
    assert whole.nbytes > 1024 >= whole.addressable_shards[0].data.nbytes
    assert not arrays._save_args("params/stacks.0.experts.w", whole).shard_axes


def test_buffers_may_be_reused_once_writing_has_started(store, tmp_path):
    flat = {"x": stacked((8, 4), "a")}
    store.start_write(tmp_path / "a", flat)
    changed = jax.jit(lambda x: x + 1, donate_argnums=0)(flat["x"])
    store.wait()
    (back,) = store.read(tmp_path / "a", abstract({"x": changed})).values()
    np.testing.assert_array_equal(back, np.zeros((8, 4), np.float32))
