"""Every format, and every way in which a file can be bad: the error names file, line and remedy."""

import re
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from moe_jax.data.files import TextFile, list_files, read_file


def _read(path: Path, field: str = "text") -> list[tuple[str, str]]:
    return list(read_file(TextFile(path.name, path), field))


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _parquet(tmp_path: Path, **columns: list) -> Path:
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_txt_is_one_document_with_its_line_ends_kept(tmp_path):
    path = _file(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo\n")
    assert _read(path) == [("a.txt", "one\r\ntwo\n")]


def test_jsonl_is_one_document_per_line_without_empty_ones(tmp_path):
    path = _file(tmp_path, "a.jsonl", b'{"text": "\\u00e4"}\n\n{"text": ""}\n{"text": "b"}')
    assert _read(path) == [("a.jsonl#1", "ä"), ("a.jsonl#4", "b")]


def test_jsonl_reads_the_chosen_field(tmp_path):
    path = _file(tmp_path, "a.jsonl", b'{"text": "no", "body": "yes"}\n')
    assert _read(path, "body") == [("a.jsonl#1", "yes")]


def test_parquet_is_one_document_per_row_over_all_row_groups(tmp_path):
    path = _parquet(tmp_path, body=["a", "", "ß", "d", "e"], n=[1, 2, 3, 4, 5])
    expected = [("d.parquet#1", "a"), ("d.parquet#3", "ß"), ("d.parquet#4", "d")]
    assert _read(path, "body") == [*expected, ("d.parquet#5", "e")]


def test_directories_are_searched_in_sorted_order_without_hidden_and_foreign_files(tmp_path):
    for name in ("b.txt", "a/c.TXT", "a.jsonl", ".hidden.txt", ".git/x.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    files = list_files([str(tmp_path)], "data.paths")
    assert [file.key for file in files] == ["a.jsonl", "a/c.TXT", "b.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt holds no text: remove it"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no text: remove it"),
        ("a.txt", b"ok\nb\xe4d\n", r"a.txt, line 2: not UTF-8 .*: convert the file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', "a.jsonl, line 2: not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl, line 3, column 9: not valid JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n' + b"[" * 20_000,
            "a.jsonl, line 2: JSON that cannot be read",
        ),
        ("a.jsonl", b"[" + b"9" * 5_000 + b"]", "a.jsonl, line 1: JSON that cannot be read"),
        ("a.jsonl", b'["text"]\n', "a.jsonl, line 1: not a JSON object; write"),
        ("a.jsonl", b'{"b": 1, "a": 2}\n', r"line 1: no field \"text\", only \['a', 'b'\]: set"),
        ("a.jsonl", b'{"text": 7}\n', 'a.jsonl, line 1: "text" is int, not text: remove the row'),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "a.jsonl, line 1: half of a surrogate pair"),
        ("a.parquet", b"PAR1 not really", "a.parquet: not a readable Parquet file"),
    ],
)
def test_bad_file_is_named_with_line_and_remedy(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        _read(_file(tmp_path, name, content))


def test_parquet_without_the_column_is_refused(tmp_path):
    path = _parquet(tmp_path, body=["a"])
    with pytest.raises(ValueError, match=r"no column \"text\", only \['body'\]: set data.text_fi"):
        _read(path)


def test_parquet_row_without_text_is_refused(tmp_path):
    path = _parquet(tmp_path, text=["a", "b", None])
    with pytest.raises(ValueError, match=r"d.parquet, row 3: \"text\" is NoneType, not text"):
        _read(path)


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = _parquet(tmp_path, text=["a"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=re.escape("pip install moe-jax[parquet]")):
        _read(path)


def test_unreadable_file_is_refused(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ValueError, match=r"a.txt cannot be read: .*directory"):
        _read(tmp_path / "a.txt")


def test_missing_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.paths: .*nowhere.txt does not exist"):
        list_files([str(tmp_path / "nowhere.txt")], "data.paths")


def test_unknown_kind_is_refused(tmp_path):
    path = _file(tmp_path, "a.csv", b"x")
    with pytest.raises(ValueError, match=r"a.csv is of an unknown kind: convert it .*\.parquet"):
        list_files([str(path)], "data.paths")


def test_directory_without_text_is_refused(tmp_path):
    _file(tmp_path, "a.csv", b"x")
    with pytest.raises(ValueError, match=r"data.validation_paths: the directory .* holds none of"):
        list_files([str(tmp_path)], "data.validation_paths")
