"""Saving and restoring: bit-exact, on any mesh, retention, and the interface's errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.checkpoint_cases import INFO, abstract, assert_same_bits, make_state, mesh_of

from moe_jax.checkpoint import CheckpointError, Checkpoints
from moe_jax.config.schema import CheckpointConfig


@pytest.fixture
def state():
    return make_state(10, mesh_of(8))


def test_the_configuration_section_is_the_argument_list(tmp_path):
    config = CheckpointConfig(every=4)
    with Checkpoints(tmp_path, **config.model_dump()) as checkpoints:
        assert [step for step in range(13) if checkpoints.due(step)] == [4, 8, 12]
    with Checkpoints(tmp_path, every=0) as checkpoints:
        assert not any(checkpoints.due(step) for step in range(5))


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_round_trip_is_bit_exact(tmp_path, state, mode):
    with Checkpoints(tmp_path / "new" / "dir", mode=mode) as checkpoints:
        checkpoints.save(10, state, INFO)
        assert checkpoints.last_step == 10
        if mode == "sync":
            assert checkpoints.steps() == [10]
    with Checkpoints(tmp_path / "new" / "dir") as checkpoints:
        restored = checkpoints.restore(abstract(state))
        assert checkpoints.last_step == restored.step == 10
        assert checkpoints.info() == checkpoints.info(10) == INFO
    assert restored.info == INFO
    assert restored.rejected == []
    assert_same_bits(restored.state, state)
    for got, want in zip(jax.tree.leaves(restored.state), jax.tree.leaves(state), strict=True):
        assert got.sharding == want.sharding


@pytest.mark.parametrize(
    ("shape", "spec"), [((4, 2), P("b", "a")), ((2, 2, 2), P(("c", "a"))), ((1,), P()), ((2,), P())]
)
def test_restore_onto_another_mesh_and_sharding_is_exact(tmp_path, state, shape, spec):
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = jax.sharding.Mesh(np.array(devices).reshape(shape), ("a", "b", "c")[: len(shape)])

    def place(x):
        fitting = spec if x.ndim >= len(spec) and x.size >= 64 else P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, fitting))

    wanted = jax.tree.map(place, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, state, INFO)
        restored = checkpoints.restore(wanted)
    assert_same_bits(restored.state, state)
    for got, want in zip(jax.tree.leaves(restored.state), jax.tree.leaves(wanted), strict=True):
        assert got.sharding == want.sharding


def test_nnx_and_optax_states_come_back_in_their_classes(tmp_path):
    sharding = NamedSharding(mesh_of(8), P())
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    opt = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params)
    state = jax.device_put({"params": params, "opt": opt}, sharding)
    pure = {"params": nnx.to_pure_dict(state["params"])}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        assert_same_bits(checkpoints.restore(abstract(state)).state, state)
        part = checkpoints.restore(abstract(pure), extra="ignore")
    assert_same_bits(part.state, pure)


def test_state_saved_is_the_state_at_the_call_even_if_donated(tmp_path):
    sharding = NamedSharding(mesh_of(8), P("a"))
    update = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    x = jax.device_put(jnp.arange(4_000_000, dtype=jnp.float32), sharding)
    want = np.array(x, copy=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
        for _ in range(8):
            x = update(x)
        x.block_until_ready()
        got = checkpoints.restore({"x": abstract(x)}).state["x"]
    np.testing.assert_array_equal(np.asarray(got), want)


def test_info_is_what_it_was_at_the_call(tmp_path, state):
    info = {"data": {"step": 1}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, info)
        info["data"]["step"] = 2
        assert checkpoints.restore(abstract(state)).info == {"data": {"step": 1}}


def test_the_newest_are_kept(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 30, 4000):
            checkpoints.save(step, state, INFO)
        checkpoints.wait()
        assert checkpoints.steps() == [30, 4000]
        assert checkpoints.rejected() == []
        assert checkpoints.restore(abstract(state), step=30).step == 30


def test_saving_a_step_again_is_refused_and_leaves_it_alone(tmp_path, state):
    with Checkpoints(tmp_path, mode="sync") as checkpoints:
        checkpoints.save(5, state, INFO)
        with pytest.raises(CheckpointError, match="cannot save step 5"):
            checkpoints.save(5, make_state(6, mesh_of(8)), INFO)
        assert_same_bits(checkpoints.restore(abstract(state), step=5).state, state)


@pytest.mark.parametrize("info", [{"x": {1, 2}}, {"x": (1, 2)}, {1: "x"}, {"x": np.float32(1)}])
def test_info_that_json_would_change_is_refused(tmp_path, state, info):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="info"):
        checkpoints.save(1, state, info)


def test_bucket_url_is_refused():
    with pytest.raises(CheckpointError, match="mount the bucket"):
        Checkpoints("gs://bucket/run")


def test_leaving_by_an_exception_finishes_the_save_and_keeps_the_exception(tmp_path, state):
    def train():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, state, INFO)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train()
    assert Checkpoints(tmp_path).steps() == [1]
