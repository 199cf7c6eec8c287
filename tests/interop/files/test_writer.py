import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

from moe_jax.interop.files.directory import HfDirectory
from moe_jax.interop.files.shard import read_header
from moe_jax.interop.files.writer import ShardWriter, TensorSpec, divide, parse_size

BF16 = np.dtype(ml_dtypes.bfloat16)
TENSORS = {
    "narrow": np.arange(3, dtype=np.uint8),
    "half": np.arange(35).reshape(5, 7).astype(BF16),
    "full": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
    "none": np.zeros((0, 2), np.float32),
}
SPECS = [TensorSpec(name, value.shape, value.dtype) for name, value in TENSORS.items()]


def fill(folder: Path, most: int, names: list[str]) -> None:
    with ShardWriter(folder, SPECS, most) as writer:
        for name in names:
            writer.write(name, TENSORS[name])


def read_back(folder: Path) -> dict[str, bytes]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                tensor = opened.get_tensor(name)
                found[name] = tensor.view(-1).view(torch.uint8).numpy()
    return {name: value.tobytes() for name, value in found.items()}


@pytest.mark.parametrize(("most", "files"), [(10**6, 1), (60, 3), (1, 4)])
def test_what_is_written_in_any_order_is_what_safetensors_reads(tmp_path, most, files):
    fill(tmp_path, most, sorted(TENSORS))
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert read_back(tmp_path) == {name: value.tobytes() for name, value in TENSORS.items()}


def test_shards_are_named_and_indexed_as_transformers_does(tmp_path):
    fill(tmp_path, 80, list(TENSORS))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert index == {
        "metadata": {"total_size": 3 + 70 + 48},
        "weight_map": {"narrow": first, "half": first, "full": second, "none": second},
    }
    (tmp_path / "config.json").write_text("{}")
    directory = HfDirectory(tmp_path)
    np.testing.assert_array_equal(directory.read("full"), TENSORS["full"])


def test_a_forgotten_tensor_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="never written: half, none"):
        fill(tmp_path, 10**6, ["narrow", "full"])


@pytest.mark.parametrize(
    "tensor", [np.zeros((7, 5), BF16), np.zeros((5, 7), np.float32), TENSORS["half"]]
)
def test_another_shape_or_dtype_or_a_second_time_is_an_error(tmp_path, tensor):
    writer = ShardWriter(tmp_path, SPECS, 10**6)
    if tensor is TENSORS["half"]:
        writer.write("half", tensor)
    with pytest.raises(ValueError, match="half should be written once, as bfloat16"):
        writer.write("half", tensor)


def test_a_tensor_larger_than_a_shard_has_its_own():
    sizes = [4, 100, 4, 4]
    specs = [TensorSpec(str(i), (n,), np.dtype(np.uint8)) for i, n in enumerate(sizes)]
    assert [[spec.size for spec in shard] for shard in divide(specs, 8)] == [[4], [100], [4, 4]]


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("2MiB", 2**21), ("17", 17), (" 3 kb", 3000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "GB", "-1", "1.5GB", "5TB", "5BG", "0MB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_every_tensor_begins_at_a_multiple_of_its_width(tmp_path):
    fill(tmp_path, 10**6, list(TENSORS))
    entries = read_header(tmp_path / "model.safetensors").values()
    assert {entry.name: entry.begin % entry.dtype.itemsize for entry in entries} == dict.fromkeys(
        TENSORS, 0
    )
