"""One checkpoint written chunk by chunk, and slabs of stored arrays read: no array is ever whole.

For converting models that are larger than memory; no devices, one process. The arrays and notes lie
on the disk as orbax's `PyTreeCheckpointHandler` lays them out (zarr arrays in one OCDBT database,
`_METADATA` naming them), so `Checkpoints` restores and `inspect` reads them like any other.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from moe_jax.checkpoint import directory, manifest, tree
from moe_jax.checkpoint.arrays import CHUNK
from moe_jax.checkpoint.contents import CHUNKS, DOT, Contents
from moe_jax.checkpoint.errors import CheckpointError

#: Bytes of slabs that are put into one file, and of decoded chunks that are kept for other slabs.
BATCH = 128 * 2**20
CACHE = 128 * 2**20
#: What orbax's kind for dict keys is called in its notes.
_DICT_KEY = 2
#: As orbax writes them: see `_add_ocdbt_write_options` and `_build_zarr2_metadata` there.
_DATABASE = {
    "target_data_file_size": 2**31,
    "config": {
        "max_inline_value_bytes": 1024,
        "max_decoded_node_bytes": 100_000_000,
        "manifest_kind": "single",
    },
    "assume_config": True,
}
_COMPRESSOR = {"id": "zstd", "level": 1}

Cell = tuple[slice, ...]


@dataclass(frozen=True)
class ArrayPlan:
    """An array to be written.

    Attributes:
        shape, dtype: of the whole array.
        lead: leading dimensions whose index names a slab: one layer, or one expert of a layer.
    """

    shape: tuple[int, ...]
    dtype: str
    lead: int

    @property
    def numpy_dtype(self) -> np.dtype:
        """The dtype as NumPy knows it, bfloat16 included."""
        return jnp.dtype(self.dtype)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of the pieces on the disk: a slab, cut along its first dimensions to `CHUNK`."""
        cut = list(self.shape[self.lead :])
        size = math.prod(cut) * self.numpy_dtype.itemsize
        for dim, length in enumerate(cut):
            cut[dim] = max(1, math.ceil(length / max(1, math.ceil(size / CHUNK))))
            size = size // max(1, length) * cut[dim]
        return (*(1 for _ in range(self.lead)), *cut)

    def cells(self, index: tuple[int, ...]) -> Iterator[Cell]:
        """Yield the slices of the array that one chunk each holds of the slab at `index`."""
        lead = [slice(i, i + 1) for i in index]
        pairs = zip(self.shape[self.lead :], self.chunk[self.lead :], strict=True)
        cuts = [
            [slice(start, min(start + part, length)) for start in range(0, length, part)]
            for length, part in pairs
        ]
        for inside in product(*cuts):
            yield (*lead, *inside)


class StreamedWriter:
    """The checkpoint of one step in a new directory of checkpoints.

    A context manager; leaving it without an error makes the checkpoint complete, with the digests
    of its files. After an error what was written is no checkpoint.

    Args:
        root: the directory of checkpoints; must not hold one of this or a later step.
        step: steps trained.
        info: JSON-able, as for `Checkpoints.save`.
        arrays: what the state holds, by path.
    """

    def __init__(
        self, root: Path, step: int, info: dict[str, Any], arrays: Mapping[str, ArrayPlan]
    ) -> None:
        self._root = root
        self._step = step
        self._info = info
        self._arrays = dict(arrays)
        self._folder = directory.stage(root, step, frozenset()) / directory.ARRAYS
        self._folder.mkdir()
        # Files are flushed once, when their digests are taken.
        context = ts.Context({"file_io_sync": False})
        opening = {
            name: ts.open(_spec_to_write(self._folder, name, plan), create=True, context=context)
            for name, plan in self._arrays.items()
        }
        self._stores = {name: future.result() for name, future in opening.items()}
        self._written: dict[str, set[tuple[int, ...]]] = {name: set() for name in self._arrays}
        self._batch, self._batched = ts.Transaction(), 0
        self._committing: ts.Future | None = None

    def write(self, name: str, cell: Cell, values: np.ndarray) -> None:
        """Write one chunk.

        Args:
            name: path of the array.
            cell: one of its plan's `cells`.
            values: of the shape of the cell; must not change later, they may be written then.

        Raises:
            CheckpointError: the cell was written before, or the values do not fit it.
        """
        plan, start = self._arrays[name], tuple(part.start for part in cell)
        shape = tuple(part.stop - part.start for part in cell)
        fits = values.shape == shape and values.dtype == plan.numpy_dtype
        if not fits or start in self._written[name]:
            raise CheckpointError(
                f"{self._root}: {name} from {list(start)} should be written once, as "
                f"{plan.dtype}{list(shape)}; got {values.dtype}{list(values.shape)}"
            )
        self._written[name].add(start)
        part = self._stores[name].with_transaction(self._batch)[cell]
        part.write(values, can_reference_source_data_indefinitely=True).copy.result()
        self._batched += values.nbytes
        if self._batched >= BATCH:
            self._commit()

    def __enter__(self) -> "StreamedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        else:
            # What still writes would fill the directory that the caller is about to remove.
            self._batch.abort()
            with suppress(Exception):
                self._wait()

    def _commit(self) -> None:
        """Start writing a batch once the one before is on the disk: memory holds two."""
        self._wait()
        self._committing = self._batch.commit_async()
        self._batch, self._batched = ts.Transaction(), 0

    def _wait(self) -> None:
        committing, self._committing = self._committing, None
        if committing is not None:
            committing.result()

    def _finish(self) -> None:
        self._commit()
        self._wait()
        for name, plan in self._arrays.items():
            lengths = zip(plan.shape, plan.chunk, strict=True)
            wanted = math.prod(math.ceil(length / part) for length, part in lengths)
            if len(self._written[name]) != wanted:
                raise CheckpointError(
                    f"{self._root}: {len(self._written[name])} of {wanted} chunks of {name} were "
                    "written"
                )
        _write_notes(self._folder, self._arrays)
        specs = {
            name: {"shape": list(plan.shape), "dtype": plan.dtype}
            for name, plan in self._arrays.items()
        }
        staging = directory.staging_of(self._root, self._step)
        directory.commit(self._root, manifest.build(staging, self._step, self._info, specs))


class SlabReader:
    """Slabs of the arrays of a stored checkpoint, however their chunks were cut.

    Slabs that share a chunk are best read one after the other: the last chunks read are kept.

    Args:
        contents: the checkpoint; verify its digests first, damaged data is read silently.
    """

    def __init__(self, contents: Contents) -> None:
        self._folder = contents.path / directory.ARRAYS
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE}})
        self._stores: dict[str, ts.TensorStore] = {}

    def read(self, name: str, index: tuple[int, ...] = ()) -> np.ndarray:
        """Return the slab at a leading index of the array at path `name`."""
        if name not in self._stores:
            self._stores[name] = ts.open(
                _spec(self._folder, name), read=True, context=self._context
            ).result()
        store = self._stores[name]
        return (store[index] if index else store).read().result()


def _spec(folder: Path, name: str) -> dict[str, Any]:
    base = {"driver": "file", "path": f"{folder}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{_noted(name)}/"}
    return {"driver": "zarr", "kvstore": kvstore}


def _spec_to_write(folder: Path, name: str, plan: ArrayPlan) -> dict[str, Any]:
    spec = _spec(folder, name)
    metadata = {"shape": plan.shape, "chunks": plan.chunk, "compressor": _COMPRESSOR}
    return spec | {
        "kvstore": spec["kvstore"] | _DATABASE,
        "metadata": metadata,
        "dtype": plan.dtype,
        "store_data_equal_to_fill_value": True,
    }


def _noted(name: str) -> str:
    """Orbax's name of an array."""
    return name.replace(tree.SEPARATOR, DOT)


def _write_notes(folder: Path, arrays: Mapping[str, ArrayPlan]) -> None:
    """Write what orbax keeps beside the arrays; shardings are not noted, there are none."""
    entries = {
        str(tuple(name.split(tree.SEPARATOR))): {
            "key_metadata": [
                {"key": key, "key_type": _DICT_KEY} for key in name.split(tree.SEPARATOR)
            ],
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": plan.chunk,
            },
        }
        for name, plan in arrays.items()
    }
    notes = {
        "tree_metadata": entries,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    (folder / "_METADATA").write_text(json.dumps(notes))
    chunks = [
        {
            "array_metadata": {
                "param_name": _noted(name),
                "write_shape": plan.chunk,
                "chunk_shape": plan.chunk,
                "ext_metadata": None,
            }
        }
        for name, plan in arrays.items()
    ]
    (folder / CHUNKS).mkdir()
    (folder / CHUNKS / "process_0").write_text(json.dumps({"array_metadatas": chunks}))
