import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.checkpoint_cases import data_file, flip_bit, mesh_of

from moe_jax.checkpoint import CheckpointError, Checkpoints, arrays, read_contents, streamed
from moe_jax.checkpoint.streamed import ArrayPlan, SlabReader, StreamedWriter
from moe_jax.cli.main import main

INFO = {"config": "", "n": [1]}
VALUES = {
    "params/stacks.0.experts.w_up_edf": np.arange(3 * 4 * 6 * 8, dtype=np.float32).reshape(
        3, 4, 6, 8
    ),
    "params/norm.scale": np.arange(16).reshape(2, 8).astype(jnp.bfloat16),
    "params/zero": np.zeros((5, 7), np.float32),
    "buffers/bias": np.arange(4, dtype=np.float32),
}
LEADS = {
    "params/stacks.0.experts.w_up_edf": 2,
    "params/norm.scale": 1,
    "params/zero": 0,
    "buffers/bias": 0,
}
PLANS = {
    name: ArrayPlan(value.shape, str(value.dtype), LEADS[name]) for name, value in VALUES.items()
}


def write(root, leave_out=()):
    with StreamedWriter(root, 7, INFO, PLANS) as writer:
        for name, value in VALUES.items():
            for index in np.ndindex(*value.shape[: LEADS[name]]):
                for cell in PLANS[name].cells(index):
                    if (name, index) not in leave_out:
                        writer.write(name, cell, value[cell])


def wanted(mesh, specs):
    """The state as `Checkpoints` restores it: two nested dicts, names with dots in them."""
    state: dict = {"params": {}, "buffers": {}}
    for path, value in VALUES.items():
        group, name = path.split("/")
        sharding = NamedSharding(mesh, specs.get(name, P()))
        state[group][name] = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    return state


@pytest.mark.parametrize("batch", [1, streamed.BATCH])
def test_checkpoints_restores_it_onto_a_mesh(tmp_path, batch, monkeypatch):
    monkeypatch.setattr(streamed, "BATCH", batch)
    write(tmp_path)
    specs = {"stacks.0.experts.w_up_edf": P(None, "a", "b"), "zero": P(None, None)}
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(wanted(mesh_of(4, 2), specs))
    assert restored.step == 7
    assert restored.info == INFO
    for path, value in VALUES.items():
        group, name = path.split("/")
        got = restored.state[group][name]
        assert np.asarray(got).tobytes() == value.tobytes(), path


def test_inspect_reads_it(tmp_path, capsys):
    write(tmp_path)
    assert main(["inspect", str(tmp_path), "--verify", "--json"]) == 0
    arrays = {array["name"]: array for array in json.loads(capsys.readouterr().out)["arrays"]}
    assert arrays.keys() == VALUES.keys()
    experts = arrays["params/stacks.0.experts.w_up_edf"]
    assert experts["chunk"] == [1, 1, 6, 8]
    assert experts["chunks"] == 12


def test_a_run_can_save_after_it(tmp_path):
    write(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(wanted(mesh_of(1), {})).state
        checkpoints.save(8, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [7, 8]


def test_a_flipped_bit_is_noticed(tmp_path):
    write(tmp_path)
    flip_bit(data_file(tmp_path / "00000007"))
    assert "does not match the digest" in read_contents(tmp_path, 7, "digests").faults[0]


def test_large_slabs_are_cut_into_chunks(monkeypatch):
    monkeypatch.setattr(streamed, "CHUNK", 1000)
    assert ArrayPlan((3, 5, 100, 8), "float32", 2).chunk == (1, 1, 25, 8)
    assert ArrayPlan((2, 1000), "float32", 0).chunk == (1, 250)
    assert ArrayPlan((3, 10), "bfloat16", 1).chunk == (1, 10)
    assert ArrayPlan((), "float32", 0).chunk == ()


def test_chunks_that_do_not_divide_a_slab_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "CHUNK", 70)
    write(tmp_path)
    reader = SlabReader(read_contents(tmp_path, 7))
    for name, value in VALUES.items():
        assert reader.read(name).tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "left_out", [("params/stacks.0.experts.w_up_edf", (2, 3)), ("params/zero", ())]
)
def test_a_forgotten_slab_makes_no_checkpoint(tmp_path, left_out):
    with pytest.raises(CheckpointError, match=f"chunks of {left_out[0]} were written"):
        write(tmp_path, [left_out])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []


@pytest.mark.parametrize(
    ("start", "values"),
    [
        (0, VALUES["params/norm.scale"][:1]),
        (1, np.zeros((1, 9), jnp.bfloat16)),
        (1, np.zeros((1, 8), np.float32)),
        (1, np.zeros(8, jnp.bfloat16)),
    ],
)
def test_chunks_twice_or_of_another_shape_or_dtype_are_refused(tmp_path, start, values):
    writer = StreamedWriter(tmp_path, 0, {}, PLANS)
    cells = [cell for row in range(2) for cell in PLANS["params/norm.scale"].cells((row,))]
    writer.write("params/norm.scale", cells[0], VALUES["params/norm.scale"][:1])
    with pytest.raises(CheckpointError, match=r"params/norm\.scale from .* should be written once"):
        writer.write("params/norm.scale", cells[start], values)


@pytest.mark.parametrize("chunk", [150, arrays.CHUNK])
def test_slabs_of_an_ordinary_checkpoint_are_read(tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", chunk)
    mesh = mesh_of(2, 4)
    specs = {"stacks.0.experts.w_up_edf": P(None, "a", None, "b")}
    state = jax.tree.map(lambda spec: spec.sharding, wanted(mesh, specs))
    placed: dict = {"params": {}, "buffers": {}}
    for path, value in VALUES.items():
        group, name = path.split("/")
        placed[group][name] = jax.device_put(value, state[group][name])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, placed, {})
    contents = read_contents(tmp_path, 3, "digests")
    chunks = {array.name: array.chunk for array in contents.arrays}
    want = (1, 1, 6, 2) if chunk == 150 else (3, 2, 6, 2)
    assert chunks["params/stacks.0.experts.w_up_edf"] == want
    reader = SlabReader(contents)
    for name, value in VALUES.items():
        for index in np.ndindex(*value.shape[: LEADS[name]]):
            got = reader.read(name, index)
            assert got.dtype == value.dtype
            assert got.tobytes() == value[index].tobytes(), (name, index)
