"""`Checkpoints`: a run's checkpoints, saved in the background, verified before they are used.

The public face only: what is on the disk is described in `directory.py`, how a save proceeds in
`saving.py`, how a checkpoint is chosen and read in `restoring.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax

from moe_jax.checkpoint import agree, directory, manifest, tree
from moe_jax.checkpoint.arrays import ArrayStore
from moe_jax.checkpoint.directory import Rejected
from moe_jax.checkpoint.errors import CheckpointError
from moe_jax.checkpoint.restoring import Extra, Missing, Restorer, Step
from moe_jax.checkpoint.saving import Saver


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint, and what the directory held besides good ones."""

    step: int
    state: Any
    info: dict[str, Any]
    rejected: list[Rejected]


class Checkpoints:
    """The checkpoints of one run.

    `save`, `restore`, `info`, `wait` and `close` are collectives: every process calls them, in the
    same order. A context manager; leaving it finishes the running save, which does not become a
    checkpoint if the program ends without that.

    Args:
        root: Their directory, which all processes see; made by the first save.
        every: Steps between checkpoints, for `due` (0 = never due).
        keep: How many of the newest good ones stay.
        mode: `"async"` writes while training continues, `"sync"` before `save` returns.
        verify: What is checked before a restore: file sizes, or sizes and contents.

    Example:
        `Checkpoints(workdir / CHECKPOINTS, **config.checkpoint.model_dump())`
    """

    def __init__(
        self,
        root: str | Path,
        every: int = 0,
        keep: int = 3,
        mode: Literal["async", "sync"] = "async",
        verify: manifest.Verify = "digests",
    ) -> None:
        if "://" in str(root):
            raise CheckpointError(
                f"checkpoint directory {root}: only a mounted file system has the atomic rename "
                "that checkpoints rely on; mount the bucket or use a shared disk"
            )
        self.root = Path(root).absolute()
        self._every = every
        self._mode = mode
        self._store = ArrayStore()
        self._saver = Saver(self.root, keep, self._store)
        self._restorer = Restorer(self.root, verify, self._store)
        #: The step that this object last saved (or is saving) or restored; None before.
        self.last_step: int | None = None

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be saved after `step` steps."""
        return self._every > 0 and step > 0 and step % self._every == 0

    def save(self, step: int, state: Any, info: dict[str, Any]) -> None:
        """Save `state` as the checkpoint of `step`; its buffers may be donated afterwards.

        Args:
            step: Steps trained so far; greater than that of every good checkpoint here.
            state: Pytree of jax.Arrays (dicts, optax states, nnx.State), stored by key path.
            info: JSON-able: the configuration, the data position as (seed, global step).

        Raises:
            CheckpointError: The state or info cannot be stored, a good checkpoint of this or a
                later step is there, or the *previous* save failed in the background.
        """
        flat = tree.flatten(state)
        tree.check_savable(flat)
        copy = _as_read_back(info)
        self.wait()
        self._saver.start(step, flat, copy, self._restorer.distrusted)
        self._restorer.distrusted -= {step}
        self.last_step = step
        if self._mode == "sync":
            self.wait()

    def steps(self) -> list[int]:
        """Return the steps of complete checkpoints, ascending; contents are not read."""
        return [s for s in directory.scan(self.root).steps if s not in self._restorer.distrusted]

    def rejected(self) -> list[Rejected]:
        """Return what is in the directory and no complete checkpoint, as (path, reason)."""
        return directory.scan(self.root).rejected

    def info(self, step: Step = "latest") -> dict[str, Any]:
        """Return the `info` of a checkpoint, without its arrays.

        Args:
            step: a step, or "latest" for the newest good one.

        Raises:
            CheckpointError: there is none.
        """
        return self._restorer.info(step)

    def restore(
        self,
        abstract_state: Any,
        step: Step = "latest",
        missing: Missing = "none",
        extra: Extra = "error",
    ) -> Restored | None:
        """Restore a checkpoint onto any mesh, after verifying its files.

        Args:
            abstract_state: Like the state, with a jax.ShapeDtypeStruct for each array whose
                sharding says where it goes, however it was sharded when saved.
            step: A step, or "latest": the newest good one; damaged ones are skipped, logged and
                named in the result.
            missing: "latest" of a directory that never held a checkpoint: None, or an error.
            extra: "ignore" reads a part of what was saved, say the parameters alone.

        Raises:
            CheckpointError: The step is absent or damaged, all are damaged, or the arrays differ
                in name, shape or dtype (nothing is converted).
        """
        self.wait()
        wanted = tree.flatten(abstract_state)
        if step == "latest":
            loaded = self._restorer.load_newest(wanted, extra, missing)
        else:
            loaded = self._restorer.load(step, wanted, extra)
        if loaded is None:
            return None
        leaves = [loaded.arrays[path] for path in wanted]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        self.last_step = loaded.contents.step
        return Restored(loaded.contents.step, state, loaded.contents.info, loaded.rejected)

    def set_aside_after(self, step: int) -> list[Path]:
        """Move complete checkpoints later than `step` out of the way, losing none.

        A run that goes on from `step` abandons them; left in place, a resume would take them for
        its own. They move to `set-aside/` beside the root.

        Args:
            step: the last that stays.

        Returns:
            Where they are now, in process 0.
        """
        self.wait()
        moved: list[Path] = []
        agree.primary_does(lambda: moved.extend(directory.set_aside_after(self.root, step)))
        return moved

    def wait(self) -> None:
        """Return when the running save, if any, is a checkpoint; raise if it failed."""
        try:
            self._saver.wait()
        except CheckpointError:
            self.last_step = None
            raise

    def close(self) -> None:
        """Finish the running save, raising if it failed, and frees orbax's threads."""
        try:
            self.wait()
        finally:
            self._store.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._saver.abandon()
            self._store.close()


def _as_read_back(info: dict[str, Any]) -> dict[str, Any]:
    """Copy `info` through JSON: a later change of the original does not matter."""
    try:
        copy = json.loads(json.dumps(info))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"info must be JSON-able, it is stored as text: {error}") from error
    if copy != info:
        raise CheckpointError(
            "info would not come back from JSON as it is: use str keys, and lists for tuples"
        )
    return copy
