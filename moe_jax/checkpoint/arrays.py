"""Writing and reading the arrays of one checkpoint: the only file that imports orbax.

orbax's v0 `AsyncCheckpointer`, not its `CheckpointManager`: what counts as a checkpoint, which one
is newest and what may be deleted is our own business (an empty numeric directory is a checkpoint
to the manager). Its v1 interface is still marked experimental and is renaming its functions.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from moe_jax.checkpoint import tree

#: Seconds that processes wait for each other in one save; slow shared disks need it.
TIMEOUT = 3600
#: Bytes above which a chunk is cut: who wants a part of one, on another mesh, reads all of it.
CHUNK = 64 * 2**20


class ArrayStore:
    """Arrays of all processes, by path, in a directory that all processes see."""

    def __init__(self) -> None:
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), timeout_secs=TIMEOUT)

    def start_write(self, path: Path, arrays: Mapping[str, jax.Array]) -> None:
        """Start writing to `path`; return once the device buffers are no longer needed.

        On CPU the host copy may be a view, but JAX then does not donate the buffer: it copies.

        Args:
            path: a directory that is not there yet.
            arrays: by path in the state, on the devices of all processes.
        """
        save_args = {name: _save_args(name, array) for name, array in arrays.items()}
        args = ocp.args.PyTreeSave(tree.nest(arrays), save_args=tree.nest(save_args))
        self._orbax.save(path, args=args)

    def wait(self) -> None:
        """Return when all processes have written; raise what the writing raised."""
        self._orbax.wait_until_finished()

    def read(self, path: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Read the wanted arrays in their wanted shardings; others in `path` are not read.

        Args:
            path: where `start_write` has written.
            wanted: shape, dtype and sharding of each, by path in the state.
        """
        restore_args = {
            name: ocp.ArrayRestoreArgs(
                sharding=spec.sharding, global_shape=spec.shape, dtype=spec.dtype
            )
            for name, spec in wanted.items()
        }
        args = ocp.args.PyTreeRestore(
            item=tree.nest(wanted), restore_args=tree.nest(restore_args), partial_restore=True
        )
        nested: dict[str, Any] = self._orbax.restore(path, args=args)
        return {name: tree.lookup(nested, name) for name in wanted}

    def close(self) -> None:
        """Free the threads that write."""
        self._orbax.close()


def _save_args(name: str, array: jax.Array) -> ocp.SaveArgs:
    """Cut what a device would write as one large chunk into layers, and into their experts.

    Nothing else is cut: orbax knows only divisors of a dimension, and those of a prime are few.
    """
    shard = array.sharding.shard_shape(array.shape)
    is_stacked = array.ndim > 2
    if not is_stacked or math.prod(shard) * array.dtype.itemsize <= CHUNK:
        return ocp.SaveArgs()
    return ocp.SaveArgs(shard_axes=(0, 1) if "experts" in name.split(".") else (0,))
