"""Documents: where the text of a run comes from, and which of it is read in which order.

`stdlib` is the running Python's standard library, so that a first run needs no download; `files`
are the user's own (their formats live in `files.py`). `synthetic` has no documents and lives in
`synthetic.py`. What becomes training and what validation is decided in `corpus.py`.
"""

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_jax.config.schema import DataConfig
from moe_jax.data.files import list_files, read_file
from moe_jax.errors import UserError

#: Directories of the standard library that hold tests, other people's packages or bytecode.
SKIPPED_DIRECTORIES = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)


@dataclass(frozen=True)
class Document:
    """One text with a key that does not depend on where its directory lies.

    Args:
        key: path relative to the directory that was given, with `#line` where a file holds many.
        text: the content; never empty.
    """

    key: str
    text: str


def training_documents(data: DataConfig) -> Iterator[Document]:
    """Yield all documents that `data.source` names, except files that are named as held out.

    Args:
        data: the config's section.

    Raises:
        UserError: a path is missing, of an unknown kind, broken or empty, or paths were given to
            a source that does not read them.
    """
    check_source(data)
    return stdlib_documents() if data.source == "stdlib" else _file_documents(data)


def validation_documents(data: DataConfig) -> Iterator[Document]:
    """Yield the documents of `data.validation_paths`; nothing when there are none."""
    check_source(data)
    for file in list_files(data.validation_paths, "data.validation_paths"):
        for key, text in read_file(file, data.text_field):
            yield Document(key, text)


def check_source(data: DataConfig) -> None:
    """Refuse paths that nobody would read, and a source without the paths it needs."""
    if data.source == "files" and not data.paths:
        raise UserError(
            'data.source is "files" but data.paths is empty: name .txt, .jsonl or .parquet files '
            'or directories of them, or set data.source to "stdlib"'
        )
    for name in ("paths", "validation_paths"):
        value = getattr(data, name)
        if data.source != "files" and value:
            raise UserError(
                f'data.{name} is {list(value)} but data.source = "{data.source}" reads no files: '
                f'set data.source to "files", or data.{name} to []'
            )


def _file_documents(data: DataConfig) -> Iterator[Document]:
    held_out = {
        file.path.resolve() for file in list_files(data.validation_paths, "data.validation_paths")
    }
    files = [f for f in list_files(data.paths, "data.paths") if f.path.resolve() not in held_out]
    if not files:
        raise UserError(
            f"every file of data.paths {list(data.paths)} is also in data.validation_paths "
            f"{list(data.validation_paths)}: nothing is left to train on, name other files"
        )
    for file in files:
        for key, text in read_file(file, data.text_field):
            yield Document(key, text)


def stdlib_documents(root: Path | None = None) -> Iterator[Document]:
    """Yield the standard library's .py files in sorted order, without tests and unreadable files.

    Args:
        root: another directory to read in its place.

    Raises:
        UserError: there is no .py file under it (a frozen or zipped Python).
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    any_text = False
    for path in _stdlib_paths(root):
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            any_text = True
            yield Document(path.relative_to(root).as_posix(), text)
    if not any_text:
        raise UserError(
            f"no readable .py file under {root}: this Python keeps no standard library on disk, "
            'set data.source to "files" and data.paths to your own text'
        )


def _stdlib_paths(root: Path) -> list[Path]:
    paths = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [d for d in subdirectories if d not in SKIPPED_DIRECTORIES]
        paths += [Path(directory, name) for name in names if name.endswith(".py")]
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())
