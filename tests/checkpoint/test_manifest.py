"""Manifests: what they record, and what they notice."""

import json

import pytest
from support.checkpoint_cases import flip_bit

from moe_jax.checkpoint import manifest
from moe_jax.checkpoint.errors import CheckpointError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "big").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "small").write_bytes(b"x")
    contents = manifest.build(tmp_path, 5, {"seed": 1}, {"w": {"shape": [1], "dtype": "int8"}})
    manifest.write(tmp_path, contents)
    return tmp_path


def test_what_is_read_is_what_was_written(root):
    contents = manifest.read(root)
    assert contents.step == 5
    assert contents.info == {"seed": 1}
    assert contents.arrays == {"w": {"shape": [1], "dtype": "int8"}}
    assert {name: entry["bytes"] for name, entry in contents.files.items()} == {
        "d/big": 16384,
        "small": 1,
    }
    assert manifest.failures(root, contents, "digests") == []


def test_truncated_and_missing_files_are_named(root):
    (root / "d" / "big").write_bytes(b"short")
    (root / "small").unlink()
    assert manifest.failures(root, manifest.read(root), "sizes") == [
        "d/big: 5 bytes, saved with 16384",
        "small: missing",
    ]


def test_flipped_bit_is_seen_by_digests_and_not_by_sizes(root):
    flip_bit(root / "d" / "big")
    contents = manifest.read(root)
    assert manifest.failures(root, contents, "sizes") == []
    (found,) = manifest.failures(root, contents, "digests")
    assert found.startswith("d/big: its content does not match")


def test_shares_cover_each_file_once(root):
    contents = manifest.read(root)
    for path in ("d/big", "small"):
        (root / path).unlink()
    found = [f for i in range(3) for f in manifest.failures(root, contents, "sizes", (i, 3))]
    assert sorted(found) == ["d/big: missing", "small: missing"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "missing, so this is not a complete checkpoint"),
        (lambda path: path.write_text("{"), "unreadable"),
        (lambda path: path.write_text("[]"), "unreadable"),
        (
            lambda path: path.write_text(path.read_text().replace('"seed": 1', '"seed": 2')),
            "does not match its digest",
        ),
    ],
)
def test_damaged_manifest_is_refused(root, damage, words):
    damage(root / manifest.NAME)
    with pytest.raises(CheckpointError, match=words):
        manifest.read(root)


def test_other_format_is_refused_with_both_numbers(root, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="format 1, this version reads 2"):
        manifest.read(root)


def test_manifest_is_plain_json(root):
    assert json.loads((root / manifest.NAME).read_text())["body"]["step"] == 5
