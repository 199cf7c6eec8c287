"""The manifest of one checkpoint: what belongs to it, and what its bytes must be.

A directory without a valid manifest is not a checkpoint. This file knows files and digests;
which directories are looked at, and in which order, is decided in `directory.py`.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from moe_jax.checkpoint.errors import CheckpointError
from moe_jax.checkpoint.tree import Specs

NAME = "manifest.json"
FORMAT = 1
DIGEST = "blake2b"
#: Files digested at the same time: hashing releases the GIL, and one stream does not fill a disk.
READERS = 8

Verify = Literal["sizes", "digests"]


@dataclass(frozen=True)
class Manifest:
    """`files` maps names relative to the checkpoint to `{"bytes": int, "blake2b": hex}`.

    `info` is the caller's own (configuration, data position): being here, it is covered by the
    manifest's digest whatever is verified of the files.
    """

    step: int
    info: dict[str, Any]
    arrays: Specs
    files: dict[str, dict[str, Any]]


def build(root: Path, step: int, info: dict[str, Any], arrays: Specs) -> Manifest:
    """Describe everything below `root`; each file is read back and flushed to the disk.

    Args:
        root: the checkpoint's directory, without a manifest yet.
        step: steps trained.
        info: the caller's own, as plain JSON.
        arrays: shapes and dtypes of the state.
    """
    names = sorted(_files_below(root))
    with ThreadPoolExecutor(READERS) as readers:
        entries = readers.map(lambda name: _describe(root / name), names)
        files = dict(zip(names, entries, strict=True))
    for folder in {(root / name).parent for name in names}:
        flush_directory(folder)
    return Manifest(step=step, info=info, arrays=arrays, files=files)


def write(root: Path, manifest: Manifest) -> None:
    """Write the manifest with a digest of itself; it appears whole or not at all."""
    body = asdict(manifest) | {"format": FORMAT}
    partial = root / (NAME + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"body": body, DIGEST: _digest_of(body)}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(root / NAME)
    flush_directory(root)


def read(root: Path) -> Manifest:
    """Read the manifest in `root`.

    Args:
        root: the directory of one checkpoint.

    Raises:
        CheckpointError: It is missing, unreadable or altered.
    """
    try:
        document = json.loads((root / NAME).read_bytes())
        body = document["body"]
        if document[DIGEST] != _digest_of(body):
            raise CheckpointError(f"{NAME}: its content does not match its digest")
        if body["format"] != FORMAT:
            raise CheckpointError(f"{NAME}: format {body['format']}, this version reads {FORMAT}")
        return Manifest(**{field.name: body[field.name] for field in fields(Manifest)})
    except FileNotFoundError:
        raise CheckpointError(f"{NAME}: missing, so this is not a complete checkpoint") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{NAME}: unreadable ({error})") from error


def failures(
    root: Path, manifest: Manifest, verify: Verify, share: tuple[int, int] = (0, 1)
) -> list[str]:
    """Return what is wrong with the files in `root`, each as `name: reason`.

    Args:
        root: The checkpoint's directory.
        manifest: What the files must be.
        verify: Sizes only, or sizes and contents.
        share: (i, n): of n equal shares of the files check the i-th, so that the processes of a
            job split the reading.
    """
    index, count = share
    names = sorted(manifest.files)[index::count]
    with ThreadPoolExecutor(READERS) as readers:
        reasons = readers.map(
            lambda name: _failure(root, name, manifest.files[name], verify), names
        )
        return [reason for reason in reasons if reason]


def flush_directory(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files_below(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, DIGEST: _digest_of_file(path)}


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, DIGEST).hexdigest()


def _failure(root: Path, name: str, expected: dict[str, Any], verify: Verify) -> str:
    try:
        size = (root / name).stat().st_size
        if size != expected["bytes"]:
            return f"{name}: {size} bytes, saved with {expected['bytes']}"
        if verify == "digests" and _digest_of_file(root / name) != expected[DIGEST]:
            return f"{name}: its content does not match the digest taken when it was saved"
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: unreadable ({error})"
    return ""


def _digest_of(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.new(DIGEST, text.encode()).hexdigest()
