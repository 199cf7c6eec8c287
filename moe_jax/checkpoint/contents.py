"""What a checkpoint holds, read from its manifest and orbax's notes: no arrays, no devices.

Nothing here talks to other processes or starts JAX's backends, unlike restoring. Which directories
are checkpoints is `directory.py`'s business.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from moe_jax.checkpoint import directory, manifest, tree
from moe_jax.checkpoint.errors import CheckpointError

#: Orbax's notes about the arrays: their shardings, and per process the chunks it wrote.
SHARDINGS = "_sharding"
CHUNKS = "array_metadatas"
#: What separates keys in the names that orbax gives to arrays.
_DOT = "."


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
    """

    path: Path
    step: int
    info: dict[str, Any]
    arrays: tuple[StoredArray, ...]
    files: int
    file_bytes: int
    writers: int


def locate(path: Path) -> tuple[Path, int | None]:
    """Finds checkpoints from a run's directory, their directory, or that of one step.

    Returns:
        The directory of checkpoints, and the step if `path` names one.

    Raises:
        CheckpointError: `path` is nothing of these.
    """
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}: {_WANTED}")
    path = path.absolute()
    if (path / "checkpoints").is_dir():
        return path / "checkpoints", None
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


def read_contents(root: Path, step: int | None) -> Contents:
    """Reads what a checkpoint below `root` holds; file sizes are checked, contents are not.

    Args:
        root: the directory of checkpoints.
        step: which one; None for the newest good one.

    Raises:
        CheckpointError: it is not there, or not good; says what is.
    """
    listing = directory.scan(root)
    if step is None and not listing.steps:
        raise CheckpointError(directory.nothing_in(root, listing.rejected))
    chosen = listing.steps[-1] if step is None else step
    directory.require(root, chosen, listing)
    path = directory.path_of(root, chosen)
    found = manifest.read(path)
    return Contents(
        path=path,
        step=found.step,
        info=found.info,
        arrays=tuple(_arrays(path / directory.ARRAYS, found.arrays)),
        files=len(found.files),
        file_bytes=sum(entry["bytes"] for entry in found.files.values()),
        writers=len(list((path / directory.ARRAYS / CHUNKS).glob("process_*"))),
    )


def verify_digests(contents: Contents) -> list[str]:
    """Reads every file and compares it with its digest; returns what is wrong, if anything."""
    return manifest.failures(contents.path, manifest.read(contents.path), "digests")


_WANTED = (
    "give the working directory of a run, its checkpoints/, or the directory of one step such as "
    "checkpoints/00000100"
)


def _number(path: Path) -> int:
    return int(path.name) if directory.is_step_name(path.name) else -1


def _arrays(path: Path, specs: tree.Specs) -> Iterator[StoredArray]:
    shardings, chunks = _shardings(path), _chunks(path)
    for name, spec in specs.items():
        noted = name.replace(tree.SEPARATOR, _DOT)
        mesh, split = shardings.get(noted, ({}, ()))
        yield StoredArray(name, tuple(spec["shape"]), spec["dtype"], chunks.get(noted), mesh, split)


def _shardings(path: Path) -> dict[str, tuple[dict[str, int], tuple[tuple[str, ...], ...]]]:
    """Mesh and split dimensions of each array by orbax's name of it."""
    file = path / SHARDINGS
    if not file.is_file():
        return {}
    found = {}
    for key, text in json.loads(file.read_bytes()).items():
        noted = json.loads(text)
        if noted["sharding_type"] != "NamedSharding":
            continue
        mesh = dict(zip(noted["axis_names"], noted["shape"], strict=True))
        spec = tuple(_names(entry) for entry in noted["partition_spec"])
        found[base64.b64decode(key).decode()] = (mesh, spec)
    return found


def _chunks(path: Path) -> dict[str, tuple[int, ...]]:
    """Chunk shape of each array by orbax's name of it."""
    found = {}
    for file in sorted((path / CHUNKS).glob("process_*")):
        for entry in json.loads(file.read_bytes())["array_metadatas"]:
            noted = entry["array_metadata"]
            found[noted["param_name"]] = tuple(noted["chunk_shape"])
    return found


def _names(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
