"""Formats of text files: .txt (one document), .jsonl and .parquet (one document per row).

Every fault raises a `ValueError` that names the file, the line or row and what to do about it.
Which files are read for what is decided in `sources.py`.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_jax.errors import UserError


@dataclass(frozen=True)
class TextFile:
    """A file, and its name relative to the directory that was given."""

    key: str
    path: Path


def list_files(paths: Sequence[str], option: str) -> list[TextFile]:
    """Return the files that `paths` name, directories searched recursively and in sorted order.

    Inside a directory, hidden entries, links to directories and files of other kinds are skipped.

    Args:
        paths: files and directories.
        option: where they were given, for error messages.

    Raises:
        UserError: a path does not exist, is of an unknown kind, or is a directory without text.
    """
    files: list[TextFile] = []
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            files += _list_directory(path, option)
        elif not path.exists():
            raise UserError(f"{option}: {path} does not exist (working directory {Path.cwd()})")
        elif path.suffix.lower() not in _READERS:
            raise UserError(
                f"{option}: {path} is of an unknown kind: convert it to one of {_KINDS}"
            )
        else:
            files.append(TextFile(path.name, path))
    return files


def _list_directory(root: Path, option: str) -> list[TextFile]:
    files = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [d for d in subdirectories if not d.startswith(".")]
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() in _READERS and not name.startswith("."):
                files.append(TextFile(path.relative_to(root).as_posix(), path))
    if not files:
        raise UserError(f"{option}: the directory {root} holds none of {_KINDS}")
    return sorted(files, key=lambda file: file.key)


def read_file(file: TextFile, text_field: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every document of a file that is not empty.

    Args:
        file: what to read.
        text_field: the field (.jsonl) or column (.parquet) that holds the text.

    Raises:
        UserError: the file cannot be read, is malformed, or holds no text at all.
    """
    any_text = False
    try:
        for key, text in _READERS[file.path.suffix.lower()](file, text_field):
            if text:
                any_text = True
                yield key, text
    except OSError as error:
        raise UserError(f"{file.path} cannot be read: {error}") from error
    if not any_text:
        raise UserError(f"{file.path} holds no text: remove it, or take it out of data.paths")


def _read_txt(file: TextFile, text_field: str) -> Iterator[tuple[str, str]]:
    del text_field
    yield file.key, _decode(file.path.read_bytes(), file.path, line=1)


def _read_jsonl(file: TextFile, text_field: str) -> Iterator[tuple[str, str]]:
    with file.path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            line = _decode(raw, file.path, number).strip()
            if line:
                yield f"{file.key}#{number}", _jsonl_text(line, file.path, number, text_field)


def _jsonl_text(line: str, path: Path, number: int, text_field: str) -> str:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}, column {error.colno}: not valid JSON ({error.msg}); "
            "a .jsonl file holds one complete JSON object per line"
        ) from error
    # Python's own limits on digits and depth.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: JSON that cannot be read ({error}); drop the line") from error
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a JSON object; write {{"{text_field}": "..."}}')
    if text_field not in row:
        raise UserError(
            f'{where}: no field "{text_field}", only {sorted(row)}: set data.text_field to the '
            "one that holds the text"
        )
    return _check_text(row[text_field], where, text_field)


def _read_parquet(file: TextFile, text_field: str) -> Iterator[tuple[str, str]]:
    parquet = _import_parquet(file.path)
    import pyarrow

    try:
        with parquet.ParquetFile(file.path) as table:
            columns = table.schema_arrow.names
            if text_field not in columns:
                raise UserError(
                    f'{file.path}: no column "{text_field}", only {sorted(columns)}: set '
                    "data.text_field to the one that holds the text"
                )
            row = 0
            for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    where = f"{file.path}, row {row}"
                    yield f"{file.key}#{row}", _check_text(value, where, text_field)
    except pyarrow.ArrowException as error:
        raise UserError(f"{file.path}: not a readable Parquet file ({error})") from error


def _import_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path}: reading .parquet needs pyarrow: pip install moe-jax[parquet]"
        ) from error
    return pyarrow.parquet


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: not UTF-8 ({error.reason}): convert the file, for example "
            "with iconv -t utf-8"
        ) from error


def _check_text(value: object, where: str, text_field: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f'{where}: "{text_field}" is {type(value).__name__}, not text: remove the row, or set '
            "data.text_field to the one that holds the text"
        )
    if not value.isascii():
        # JSON's \ud800 escapes make strings that no tokenizer can take.
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{where}: half of a surrogate pair in the text: remove the row"
            ) from error
    return value


_READERS: dict[str, Callable[[TextFile, str], Iterator[tuple[str, str]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
_KINDS = ", ".join(_READERS)
