import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.checkpoint_cases import two_processes
from support.model_directories import BF16, MIXTRAL, config_of, write_model
from support.places import TESTS, WORKERS

from moe_jax.config import override
from moe_jax.interop.files import shard
from moe_jax.interop.files.directory import HfDirectory
from moe_jax.interop.load import load_weights, read_part
from moe_jax.interop.tensors.pieces import pieces
from moe_jax.mesh.build import build_mesh
from moe_jax.model.skeleton import Skeleton

MESHES = [
    (),
    ("mesh.expert=8",),
    ("mesh.expert=2", "mesh.fsdp=2", "mesh.tensor=2"),
    ("mesh.expert=4", "mesh.data=2", "sharding.dense=fsdp_expert"),
    ("mesh.pipe=3",),
]


def mesh_of(config):
    size = np.prod([getattr(config.mesh, axis) for axis in type(config.mesh).model_fields])
    return build_mesh(config.mesh, jax.devices()[:size])


def expected(config, tensors):
    """Our arrays by another way: whole tensors, one piece at a time."""
    arrays = {
        name: np.zeros(info.shape, np.float32) for name, info in Skeleton(config).variables.items()
    }
    for piece in pieces(config, MIXTRAL):
        arrays[piece.ours][piece.index] = piece.layout.to_ours(tensors[piece.theirs])
    return arrays


@pytest.mark.parametrize("overrides", MESHES)
def test_every_mesh_gets_the_same_parameters(tmp_path, overrides):
    config = config_of(*overrides)
    tensors = write_model(tmp_path / "m")
    mesh = mesh_of(config)
    weights = load_weights(HfDirectory(tmp_path / "m"), config, MIXTRAL, mesh)
    want = expected(config, tensors)
    assert weights.by_name.keys() == want.keys()
    shardings = Skeleton(config).shardings(mesh).params
    for name, array in weights.params.items():
        assert array.sharding == shardings[name]
        assert array.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(array), want[name], err_msg=name)


def test_the_dtype_is_that_of_the_config(tmp_path):
    tensors = write_model(tmp_path / "m")
    config = config_of("precision.params=bfloat16")
    params = load_weights(HfDirectory(tmp_path / "m"), config, MIXTRAL, mesh_of(config)).params
    want = expected(config, tensors)
    for name, array in params.items():
        assert array.dtype == BF16
        assert np.asarray(array).tobytes() == want[name].astype(BF16).tobytes()


def bytes_taken(path, config, devices, monkeypatch):
    """Bytes that a process with these devices takes from the files for its experts."""
    taken, original = [], shard.os.preadv

    def count(*args):
        taken.append(original(*args))
        return taken[-1]

    directory = HfDirectory(path)
    slabs = {}
    for piece in pieces(config, MIXTRAL):
        slabs.setdefault(piece.ours, {})[piece.index] = piece
    name = "stacks.0.unit.blocks.0.moe.experts.w_up_edf"
    spec = Skeleton(config).abstract(mesh_of(config)).params[name]
    with monkeypatch.context() as patch:
        patch.setattr(shard.os, "preadv", count)
        for device, index in spec.sharding.devices_indices_map(spec.shape).items():
            if device in devices:
                ends = tuple(
                    slice(*p.indices(n)[:2]) for p, n in zip(index, spec.shape, strict=True)
                )
                read_part(directory, slabs[name], ends, np.dtype(np.float32))
    return sum(taken), spec


def test_a_process_reads_only_the_experts_of_its_devices(tmp_path, monkeypatch):
    write_model(tmp_path / "m")
    config = config_of("mesh.expert=8")
    read, spec = bytes_taken(tmp_path / "m", config, jax.devices()[:2], monkeypatch)
    whole = np.prod(spec.shape) * BF16.itemsize
    assert read == whole // 4


def test_a_process_reads_only_its_rows_of_a_split_matrix(tmp_path, monkeypatch):
    sizes = ("model.d_model=64", "model.moe.d_ff=256")
    write_model(tmp_path / "m", config_of(*sizes))
    # Their up-projection is [d_ff, d_model]: the tensor axis splits its rows, those of 128 bytes.
    config = config_of(*sizes, "mesh.tensor=2", "mesh.expert=4")
    read, spec = bytes_taken(tmp_path / "m", config, jax.devices()[:1], monkeypatch)
    assert spec.sharding.spec[-1] == "tensor"
    assert read == np.prod(spec.shape) * BF16.itemsize // 8


def test_copies_of_a_shard_are_read_once(tmp_path):
    write_model(tmp_path / "m")
    directory = HfDirectory(tmp_path / "m")
    config = config_of("mesh.data=8")
    load_weights(directory, config, MIXTRAL, mesh_of(config))
    assert directory.bytes_read == sum(entry.size for entry in directory.tensors.values())


def test_another_shape_names_tensor_and_both_shapes(tmp_path):
    write_model(tmp_path / "m")
    config = override(config_of(), ["model.moe.d_ff=20"])
    with pytest.raises(ValueError, match=r"m: model\.layers\.0.*w.\.weight has shape .*24.*20"):
        load_weights(HfDirectory(tmp_path / "m"), config, MIXTRAL, mesh_of(config))


def test_tensors_left_over_are_named(tmp_path):
    write_model(tmp_path / "m")
    config = override(config_of(), ["model.num_layers=2"])
    with pytest.raises(ValueError, match=r"uses model\.layers\.2\..* and \d+ more"):
        load_weights(HfDirectory(tmp_path / "m"), config, MIXTRAL, mesh_of(config))


def test_a_missing_index_entry_names_tensor_and_index(tmp_path):
    write_model(tmp_path / "m")
    index = tmp_path / "m" / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    del listed["weight_map"]["model.layers.1.input_layernorm.weight"]
    index.write_text(json.dumps(listed))
    message = r"no tensor model\.layers\.1\.input_layernorm\.weight: model\.safetensors\.index"
    with pytest.raises(ValueError, match=message):
        load_weights(HfDirectory(tmp_path / "m"), config_of(), MIXTRAL, mesh_of(config_of()))


def test_weights_in_a_dtype_of_packed_numbers_are_refused(tmp_path):
    write_model(tmp_path / "m", dtype=np.dtype(np.int8))
    with pytest.raises(ValueError, match=r"is int8, weights must be float32"):
        load_weights(HfDirectory(tmp_path / "m"), config_of(), MIXTRAL, mesh_of(config_of()))


@pytest.mark.slow
def test_two_processes_read_the_experts_of_their_own_devices(tmp_path):
    tensors = write_model(tmp_path / "m")
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKERS / "load_worker.py"), *map(str, arguments), f"{index}.npz"],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(TESTS)},
            cwd=tmp_path,
        )
        for index, arguments in enumerate(two_processes(tmp_path / "m"))
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    experts = sum(value.nbytes for name, value in tensors.items() if ".experts." in name)
    others = sum(value.nbytes for value in tensors.values()) - experts
    want = expected(config_of(), tensors)["stacks.0.unit.blocks.0.moe.experts.w_up_edf"]
    places = set()
    for index in range(2):
        found = dict(np.load(tmp_path / f"{index}.npz"))
        assert found.pop("bytes_read") == others + experts // 2
        for expert, values in found.items():
            np.testing.assert_array_equal(values[:, 0], want[:, int(expert)])
        places |= found.keys()
    assert places == set(map(str, range(8)))
