"""What a checkpoint holds, read from its manifest and orbax's notes: no arrays, no devices.

Nothing here talks to other processes or starts JAX's backends, unlike restoring. Which directories
are checkpoints is `directory.py`'s business.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp

from moe_jax.checkpoint import directory, manifest, tree
from moe_jax.checkpoint.errors import CheckpointError
from moe_jax.workdir import CHECKPOINTS

#: Orbax's notes about the arrays: their shardings, and per process the chunks it wrote.
SHARDINGS = "_sharding"
CHUNKS = "array_metadatas"
#: How the names of the files start without which nothing can be said of the arrays.
_NOTES = (f"{directory.ARRAYS}/{SHARDINGS}", f"{directory.ARRAYS}/{CHUNKS}/")
#: What separates keys in the names that orbax gives to arrays.
DOT = "."

Note = TypeVar("Note")


@dataclass(frozen=True)
class StoredArray:
    """One array as it lies on the disk.

    Attributes:
        name: its path in the state.
        shape, dtype: of the whole array.
        chunk: shape of the pieces it is stored in; None where orbax noted none.
        mesh: sizes of the axes of the mesh it was saved under, unused ones included; empty where
            orbax noted none.
        spec: mesh axes that split each dimension; trailing dimensions may be missing.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...] | None
    mesh: Mapping[str, int]
    spec: tuple[tuple[str, ...], ...]

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize

    @property
    def chunks(self) -> int | None:
        """Number of pieces it is stored in."""
        if self.chunk is None:
            return None
        return math.prod(-(-n // part) for n, part in zip(self.shape, self.chunk, strict=True))


@dataclass(frozen=True)
class Contents:
    """One complete checkpoint.

    Attributes:
        path: its directory.
        step: steps trained.
        info: what the run stored beside the arrays.
        arrays: every array, in the order of the state.
        files, file_bytes: what it takes on the disk, the manifest not counted.
        writers: processes that wrote it; 0 where orbax noted none.
        faults: what is wrong with its files, as far as they were compared.
    """

    path: Path
    step: int
    info: dict[str, Any]
    arrays: tuple[StoredArray, ...]
    files: int
    file_bytes: int
    writers: int
    faults: tuple[str, ...]


def locate(path: Path) -> tuple[Path, int | None]:
    """Find checkpoints from a run's directory, their directory, or that of one step.

    Args:
        path: any of these.

    Returns:
        The directory of checkpoints, and the step if `path` names one.

    Raises:
        CheckpointError: `path` is nothing of these.
    """
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}: {_WANTED}")
    path = path.absolute()
    if (path / CHECKPOINTS).is_dir():
        return path / CHECKPOINTS, None
    if directory.is_step_name(path.name) or (path / manifest.NAME).is_file():
        if path.name != directory.path_of(path.parent, _number(path)).name:
            raise CheckpointError(
                f"{path} is no checkpoint: it is not named like one ({path.name}, not the step "
                "with 8 digits), so it was renamed, or its save has not finished"
            )
        return path.parent, int(path.name)
    if not any(directory.is_step_name(entry.name) for entry in path.iterdir()):
        raise CheckpointError(f"{path} holds no checkpoints: {_WANTED}")
    return path, None


def read_contents(root: Path, step: int | None, verify: manifest.Verify = "sizes") -> Contents:
    """Read what a checkpoint below `root` holds.

    Args:
        root: the directory of checkpoints.
        step: which one; None for the newest good one.
        verify: what of its files is compared; "digests" reads them all.

    Raises:
        CheckpointError: it is not there, not good, or orbax's notes are damaged; says what is.
    """
    listing = directory.scan(root)
    if step is None and not listing.steps:
        raise CheckpointError(directory.nothing_in(root, listing.rejected))
    chosen = listing.steps[-1] if step is None else step
    directory.require(root, chosen, listing)
    path = directory.path_of(root, chosen)
    written = manifest.read(path)
    faults = manifest.failures(path, written, verify)
    if any(fault.startswith(_NOTES) for fault in faults):
        raise CheckpointError(f"step {chosen} in {path} is damaged: {'; '.join(faults)}")
    return Contents(
        path=path,
        step=written.step,
        info=written.info,
        arrays=tuple(_arrays(path / directory.ARRAYS, written.arrays)),
        files=len(written.files),
        file_bytes=sum(entry["bytes"] for entry in written.files.values()),
        writers=len(list((path / directory.ARRAYS / CHUNKS).glob("process_*"))),
        faults=tuple(faults),
    )


_WANTED = (
    f"give the working directory of a run, its {CHECKPOINTS}/, or the directory of one step such "
    f"as {CHECKPOINTS}/00000100"
)


def _number(path: Path) -> int:
    return int(path.name) if directory.is_step_name(path.name) else -1


def _arrays(path: Path, specs: tree.Specs) -> Iterator[StoredArray]:
    file = path / SHARDINGS
    shardings = _noted(file, _shardings) if file.is_file() else {}
    chunks: dict[str, tuple[int, ...]] = {}
    for file in sorted((path / CHUNKS).glob("process_*")):
        chunks |= _noted(file, _chunks)
    for name, spec in specs.items():
        noted = name.replace(tree.SEPARATOR, DOT)
        mesh, split = shardings.get(noted, ({}, ()))
        yield StoredArray(name, tuple(spec["shape"]), spec["dtype"], chunks.get(noted), mesh, split)


def _noted(file: Path, read: Callable[[Any], dict[str, Note]]) -> dict[str, Note]:
    """Read one of orbax's notes."""
    try:
        return read(json.loads(file.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is unreadable ({type(error).__name__}: {error}): look for damage with "
            "moe-jax inspect --verify, and restore the checkpoint from a copy"
        ) from error


def _shardings(notes: Any) -> dict[str, tuple[dict[str, int], tuple[tuple[str, ...], ...]]]:
    """Mesh and split dimensions of each array by orbax's name of it."""
    by_name = {}
    for key, text in notes.items():
        noted = json.loads(text)
        if noted["sharding_type"] != "NamedSharding":
            continue
        mesh = dict(zip(noted["axis_names"], noted["shape"], strict=True))
        spec = tuple(_names(entry) for entry in noted["partition_spec"])
        by_name[base64.b64decode(key).decode()] = (mesh, spec)
    return by_name


def _chunks(notes: Any) -> dict[str, tuple[int, ...]]:
    """Chunk shape of each array, of those that a process wrote, by orbax's name of it."""
    entries = [entry["array_metadata"] for entry in notes["array_metadatas"]]
    return {noted["param_name"]: tuple(noted["chunk_shape"]) for noted in entries}


def _names(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
