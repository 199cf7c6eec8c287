"""Steps to batches on devices: each process reads the rows of its own devices, ahead of time.

A batch is a pure function of (data set, config, step), so resuming needs nothing but the step.
What a row contains is decided by the data set, which row is which sequence by `batch.py`.
"""

import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import fields
from typing import Protocol

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from moe_jax.config.schema import Config
from moe_jax.data.batch import Batch, batch_indices, batch_shape
from moe_jax.data.example import Example
from moe_jax.errors import UserError

#: Threads that prepare batches. Packing is NumPy under the interpreter lock: more do not help.
MAX_THREADS = 2


class Dataset(Protocol):
    """Random access to examples under every non-negative index, from any thread."""

    def example(self, index: int) -> Example:
        """Return the arrays of one sequence, each [sequence]."""
        ...

    def fingerprint(self) -> dict[str, str | int]:
        """Return what decides the content of every index; see `require_same_data`."""
        ...


class Loader:
    """Global batches of a data set.

    Args:
        dataset: where rows come from.
        config: batch size, accumulation, streams, sequence length, prefetch.
        sharding: of the [accumulation, streams, batch, sequence] arrays.

    Raises:
        UserError: the batch cannot be divided as `sharding` asks.
    """

    def __init__(self, dataset: Dataset, config: Config, sharding: NamedSharding) -> None:
        self.dataset = dataset
        self.shape = batch_shape(config)
        self._config = config
        self._sharding = sharding
        #: Rows of the global batch that this process' devices hold, in ascending order.
        self.local_rows = _local_rows(self.shape, sharding)
        self._slots = np.full(config.train.global_batch, -1)
        self._slots[self.local_rows] = np.arange(len(self.local_rows))
        self._slots = self._slots.reshape(self.shape[:3])

    def __call__(self, step: int) -> Batch:
        """Read the batch of a step, now.

        Args:
            step: counted from 0.

        Raises:
            UserError: `step` is negative.
        """
        return self._place(self._read(step))

    def iterate(self, start_step: int) -> Generator[tuple[int, Batch], None, None]:
        """Yield (step, batch) from `start_step` on, for ever, with `data.prefetch` read ahead.

        What goes wrong while reading ahead is raised here, at its step. Closing the generator,
        or dropping it, ends the threads.

        Args:
            start_step: counted from 0.
        """
        ahead = self._config.data.prefetch
        options = grain.ReadOptions(num_threads=min(ahead, MAX_THREADS), prefetch_buffer_size=ahead)
        steps = grain.MapDataset.range(start_step, sys.maxsize)
        read = steps.map(lambda step: (step, self._read(step)))
        with closing(iter(read.to_iter_dataset(options))) as batches:
            for step, rows in batches:
                yield step, self._place(rows)

    def fingerprint(self) -> dict[str, str | int]:
        """Return what decides every step's data but the batch size; see `require_same_data`."""
        return self.dataset.fingerprint()

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """Return this process' rows of every field, [local rows, sequence]."""
        indices = batch_indices(step, self._config).ravel()[self.local_rows]
        examples = [self.dataset.example(int(index)) for index in indices]
        return {
            field.name: np.stack([getattr(example, field.name) for example in examples])
            for field in fields(Batch)
        }

    def _place(self, rows: dict[str, np.ndarray]) -> Batch:
        return Batch(**{name: self._global_array(values) for name, values in rows.items()})

    def _global_array(self, values: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None, "JAX asks only for shards of this process' devices"
            return values[self._slots[index[:3]]][..., index[3]]

        return jax.make_array_from_callback(self.shape, self._sharding, shard)


def _local_rows(shape: tuple[int, int, int, int], sharding: NamedSharding) -> np.ndarray:
    rows = np.arange(np.prod(shape[:3])).reshape(shape[:3])
    try:
        shards = sharding.addressable_devices_indices_map(shape)
    except ValueError as error:
        raise UserError(
            f"a batch of {shape} (accumulation, streams, batch, sequence) cannot be divided over "
            f"the mesh {dict(sharding.mesh.shape)} as {sharding.spec}: make train.global_batch a "
            "multiple of accumulation x streams x batch axes"
        ) from error
    held = [rows[index[:3]].ravel() for index in shards.values() if index is not None]
    return np.unique(np.concatenate(held))
