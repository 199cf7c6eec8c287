import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moe_jax.interop.files.directory import HfDirectory

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)


def write(path: Path, index: dict[str, object] | None = None) -> Path:
    """Two shards with an index; one tensor in each."""
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "mixtral"}')
    save_file({"a": A}, path / "one.safetensors")
    save_file({"b": B}, path / "two.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"} if index is None else index
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


def test_shards_are_found_through_the_index(path):
    directory = HfDirectory(path)
    assert directory.config == {"model_type": "mixtral"}
    assert directory.tensors.keys() == {"a", "b"}
    np.testing.assert_array_equal(directory.read("a"), A.numpy())
    np.testing.assert_array_equal(directory.read("a", (slice(1, 2), slice(0, 2))), [[3, 4]])
    assert directory.bytes_read == 24 + 8


def test_a_single_file_needs_no_index(path):
    save_file({"c": A}, path / "model.safetensors")
    assert HfDirectory(path).tensors.keys() == {"c"}


def test_a_missing_index_entry_names_tensor_and_index(tmp_path):
    directory = HfDirectory(write(tmp_path / "m", {"a": "one.safetensors"}))
    with pytest.raises(ValueError, match=r"m: no tensor b: model\.safetensors\.index\.json does"):
        directory.read("b")


def test_a_tensor_that_its_shard_lacks_names_both(tmp_path):
    path = write(tmp_path / "m", {"a": "two.safetensors"})
    with pytest.raises(ValueError, match=r"two\.safetensors: a is not in it"):
        HfDirectory(path)


def test_a_missing_shard_names_it_and_a_tensor(path):
    (path / "two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"two\.safetensors: .* puts b there: the file is missing"):
        HfDirectory(path)


def test_a_truncated_shard_names_it_and_the_tensor(path):
    os.truncate(path / "two.safetensors", (path / "two.safetensors").stat().st_size - 2)
    with pytest.raises(ValueError, match=r"two\.safetensors: cut short within b"):
        HfDirectory(path)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "x/", 7, ["one"], None],
)
def test_index_paths_that_lead_elsewhere_are_refused(tmp_path, name):
    save_file({"a": A}, tmp_path / "x.safetensors")
    path = write(tmp_path / "m", {"a": name})
    with pytest.raises(ValueError, match=r"m(/)?: .*puts a there"):
        HfDirectory(path)


@pytest.mark.parametrize("target", ["one.safetensors", "config.json", "tokenizer.json"])
def test_links_out_of_the_directory_are_refused(path, target):
    outside = path.parent / "secret"
    (path / target).rename(outside) if (path / target).exists() else outside.write_text("{}")
    (path / target).symlink_to("../secret")
    with pytest.raises(ValueError, match=rf"{target}: .*link to .*secret, outside"):
        HfDirectory(path).tokenizer_files()


def test_links_within_the_directory_and_to_it_are_followed(path, tmp_path):
    (path / "one.safetensors").rename(path / "real")
    (path / "one.safetensors").symlink_to("real")
    (tmp_path / "link").symlink_to(path)
    np.testing.assert_array_equal(HfDirectory(tmp_path / "link").read("a"), A.numpy())


def as_cache(tmp_path: Path) -> Path:
    """The same model as the Hugging Face cache keeps it; returns the snapshot."""
    plain, model = write(tmp_path / "plain"), tmp_path / "hub" / "models--org--name"
    snapshot = model / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for number, file in enumerate(sorted(plain.iterdir())):
        file.rename(model / "blobs" / f"{number:x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:x}")
    return snapshot


def test_a_snapshot_of_the_cache_is_read_through_its_links(tmp_path):
    np.testing.assert_array_equal(HfDirectory(as_cache(tmp_path)).read("a"), A.numpy())


def test_a_snapshot_may_not_link_into_another_model(tmp_path):
    snapshot = as_cache(tmp_path)
    other = tmp_path / "hub" / "models--other" / "blobs"
    other.mkdir(parents=True)
    (other / "f").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(other / "f")
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*outside"):
        HfDirectory(snapshot).tokenizer_files()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "weights.pkl"]
)
def test_pickled_weights_are_refused_by_name(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match=rf"{name}: pickled weights"):
        HfDirectory(tmp_path)


def test_an_index_of_pickled_shards_is_refused(tmp_path):
    path = write(tmp_path / "m", {"a": "pytorch_model.bin"})
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: .*puts a there: pickled"):
        HfDirectory(path)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_broken_json_names_the_file(path, name, text):
    (path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        HfDirectory(path)


def test_a_directory_without_weights_says_what_is_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"neither .* is there, only config\.json"):
        HfDirectory(tmp_path)
    with pytest.raises(ValueError, match="is not a directory"):
        HfDirectory(tmp_path / "none")


def test_tokenizer_files_are_those_that_are_known(path):
    for name in ("tokenizer.json", "generation_config.json", "modeling_evil.py", "notes.md"):
        (path / name).write_text("{}")
    names = [file.name for file in HfDirectory(path).tokenizer_files()]
    assert names == ["tokenizer.json", "generation_config.json"]


def test_a_file_without_tensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: it holds no tensors"):
        HfDirectory(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_what_can_be_no_path_is_no_directory(tmp_path, name):
    with pytest.raises(ValueError, match="is not a directory"):
        HfDirectory(tmp_path / name)
