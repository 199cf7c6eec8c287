import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moe_jax.interop.files import shard
from moe_jax.interop.files.shard import read_header, read_slice

TENSORS = {
    "wide": torch.arange(6 * 50 * 70, dtype=torch.float32).reshape(6, 50, 70),
    "half": torch.arange(24, dtype=torch.bfloat16).reshape(4, 6),
    "sixteen": torch.linspace(-1, 1, 10, dtype=torch.float16),
    "packed": torch.arange(256, dtype=torch.uint8).reshape(16, 16),
    "eight": torch.linspace(-2, 2, 8).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "w.safetensors", metadata={"format": "pt"})
    return tmp_path / "w.safetensors"


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def with_header(path: Path, header: object, data: bytes = b"\0" * 64) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_every_dtype_is_read_bit_for_bit(path):
    entries = read_header(path)
    assert entries.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        got = read_slice(path, entries[name])
        assert got.shape == tuple(tensor.shape)
        assert got.tobytes() == bits(tensor), name
    assert entries["half"].dtype == ml_dtypes.bfloat16
    assert entries["eight"].dtype == ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize(
    "slices",
    [
        (slice(2, 3), slice(None), slice(None)),
        (slice(1, 5), slice(7, 9), slice(0, 70)),
        (slice(None), slice(10, 40), slice(3, 5)),
        (slice(4, 6), slice(None), slice(69, 70)),
        (slice(-1, None), slice(0, 0), slice(None)),
    ],
)
def test_slices_are_those_of_numpy(path, slices):
    got = read_slice(path, read_header(path)["wide"], slices)
    np.testing.assert_array_equal(got, TENSORS["wide"].numpy()[slices])
    assert got.base is None or got.base.nbytes == got.nbytes


@pytest.mark.parametrize(
    ("slices", "most"),
    [
        ((slice(3, 4), slice(None), slice(None)), 50 * 70 * 4),
        ((slice(3, 5), slice(10, 12), slice(None)), 2 * 2 * 70 * 4),
        # Rows are shorter than a page: they are read whole.
        ((slice(0, 1), slice(0, 5), slice(0, 1)), 5 * 70 * 4),
    ],
)
def test_only_the_bytes_of_a_slice_are_read(path, slices, most, monkeypatch):
    entry, read, original = read_header(path)["wide"], [], os.preadv
    monkeypatch.setattr(shard.os, "preadv", lambda *args: read.append(original(*args)) or read[-1])
    read_slice(path, entry, slices)
    assert sum(read) == most


def test_long_rows_are_cut_on_the_disk(tmp_path, monkeypatch):
    save_file({"w": torch.arange(4 * 5000.0).reshape(4, 5000)}, tmp_path / "w.safetensors")
    entry = read_header(tmp_path / "w.safetensors")["w"]
    read, original = [], os.preadv
    monkeypatch.setattr(shard.os, "preadv", lambda *args: read.append(original(*args)) or read[-1])
    got = read_slice(tmp_path / "w.safetensors", entry, (slice(1, 3), slice(1000, 3000)))
    assert read == [8000, 8000]
    np.testing.assert_array_equal(got, np.arange(20000.0).reshape(4, 5000)[1:3, 1000:3000])


@pytest.mark.parametrize(
    "slices", [(slice(0, 7), slice(None), slice(None)), (slice(0, 1),), (slice(0, 4, 2),) * 3]
)
def test_a_slice_that_does_not_fit_is_refused(path, slices):
    with pytest.raises(ValueError, match=r"w.safetensors: wide has shape \(6, 50, 70\)"):
        read_slice(path, read_header(path)["wide"], slices)


def test_a_truncated_file_names_itself_and_the_tensor(path):
    last = max(read_header(path).values(), key=lambda entry: entry.begin)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"w.safetensors: cut short within {last.name}"):
        read_header(path)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(path):
    entry = read_header(path)["wide"]
    os.truncate(path, entry.begin + 10)
    with pytest.raises(ValueError, match="cut short within wide while it was read"):
        read_slice(path, entry)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8 + b"{}", b"PK\x03\x04 not tensors"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError, match="w: its header would take"):
        read_header(tmp_path / "w")


@pytest.mark.parametrize("header", [b"{", b"\xff\xfe", b"[1]", b'{"a":1,"a":2}', b"[" * 100_000])
def test_a_corrupt_header_is_refused(tmp_path, header):
    with pytest.raises(ValueError, match="w: its header is corrupt"):
        read_header(with_header(tmp_path / "w", header))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"dtype": "Q4", "shape": [1], "data_offsets": [0, 1]}, "a is of dtype Q4"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "a: F32.* takes 8 bytes"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 4]}, "a: its header entry"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "a: its header entry"),
        ({"dtype": "F32", "shape": [1]}, "a: its header entry"),
        ({"dtype": [], "shape": [1], "data_offsets": [0, 4]}, "a: its header entry"),
        (7, "a: its header entry"),
        ({"dtype": "F32", "shape": [99], "data_offsets": [0, 396]}, "cut short within a"),
    ],
)
def test_a_wrong_entry_names_the_tensor(tmp_path, fields, problem):
    with pytest.raises(ValueError, match=problem):
        read_header(with_header(tmp_path / "w", {"a": fields}))


def test_overlapping_tensors_are_refused(tmp_path):
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    two = one | {"data_offsets": [4, 12]}
    with pytest.raises(ValueError, match="b overlaps another tensor"):
        read_header(with_header(tmp_path / "w", {"a": one, "b": two}))


def test_a_header_may_list_tensors_in_any_order(tmp_path):
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    second = {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}
    path = with_header(
        tmp_path / "w", {"b": second, "a": first}, np.arange(3, dtype="<f4").tobytes()
    )
    entries = read_header(path)
    np.testing.assert_array_equal(read_slice(path, entries["a"]), [0, 1])
    np.testing.assert_array_equal(read_slice(path, entries["b"]), [2])
