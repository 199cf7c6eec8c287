"""Documents of every source: their order, their keys, and settings that make no sense."""

import sysconfig
from pathlib import Path

import pytest

from moe_jax.config.schema import DataConfig
from moe_jax.data.sources import (
    Document,
    check_source,
    stdlib_documents,
    training_documents,
    validation_documents,
)


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_stdlib_skips_tests_packages_empty_and_unreadable_files(tmp_path):
    _write(
        tmp_path,
        {
            "b.py": b"b = 1",
            "a/x.py": "ä".encode(),
            "a/tests/t.py": b"t",
            "test/u.py": b"u",
            "site-packages/p.py": b"p",
            "a/__init__.py": b"",
            "latin.py": b"\xe4",
            "readme.txt": b"no",
        },
    )
    assert list(stdlib_documents(tmp_path)) == [Document("a/x.py", "ä"), Document("b.py", "b = 1")]


def test_running_python_offers_megabytes_of_its_own_source():
    documents = list(training_documents(DataConfig(source="stdlib")))
    keys = [document.key for document in documents]
    assert keys == sorted(keys)
    assert "json/decoder.py" in keys
    assert sum(len(document.text) for document in documents) > 4_000_000
    assert not any(part in key for key in keys for part in ("site-packages", "/test/"))
    first = Path(sysconfig.get_paths()["stdlib"], keys[0])
    assert documents[0].text == first.read_bytes().decode()


def test_python_without_source_on_disk_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no readable \.py file under"):
        list(stdlib_documents(tmp_path))


def test_held_out_files_are_not_trained_on(tmp_path):
    _write(tmp_path, {"d/a.txt": b"one", "d/b.txt": b"two", "d/val/c.txt": b"three"})
    data = DataConfig(
        source="files",
        paths=(str(tmp_path / "d"),),
        validation_paths=(str(tmp_path / "d" / "val"),),
    )
    assert [d.text for d in training_documents(data)] == ["one", "two"]
    assert [d.text for d in validation_documents(data)] == ["three"]


def test_keys_do_not_depend_on_where_the_directory_lies(tmp_path):
    keys = []
    for place in ("x", "y/z"):
        root = _write(tmp_path / place, {"a/one.txt": b"1", "two.jsonl": b'{"text": "2"}\n'})
        data = DataConfig(source="files", paths=(str(root),))
        keys.append([document.key for document in training_documents(data)])
    assert keys[0] == keys[1] == ["a/one.txt", "two.jsonl#1"]


def test_holding_out_every_file_is_refused(tmp_path):
    path = str(_write(tmp_path, {"a.txt": b"one"}) / "a.txt")
    data = DataConfig(source="files", paths=(path,), validation_paths=(path,))
    with pytest.raises(ValueError, match="nothing is left to train on"):
        list(training_documents(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(source="files"), "data.paths is empty"),
        (DataConfig(source="stdlib", paths=("x.txt",)), 'data.source = "stdlib" reads no files'),
        (
            DataConfig(source="synthetic", validation_paths=("x.txt",)),
            r"data.validation_paths is \['x.txt'\]",
        ),
    ],
)
def test_paths_that_do_not_fit_the_source_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        check_source(data)
