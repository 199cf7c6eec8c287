"""One save at a time, in the background: orbax writes the arrays, then process 0 commits.

Choosing when to save is the training loop's business; listing and restoring are in
`checkpoints.py`.
"""

import logging
import threading
from pathlib import Path
from typing import Any

import jax

from moe_jax.checkpoint import agree, directory, manifest, tree
from moe_jax.checkpoint.arrays import ArrayStore
from moe_jax.checkpoint.errors import CheckpointError

logger = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints into `root`, keeping the `keep` newest.

    Every process writes its own arrays. Process 0 alone then reads all files back for their
    digests, in this thread, several files at a time: only after orbax has merged what the
    processes wrote is it known which files there are.
    """

    def __init__(self, root: Path, keep: int, store: ArrayStore) -> None:
        self._root = root
        self._keep = keep
        self._store = store
        self._thread: threading.Thread | None = None
        self._step = -1
        self._failure: BaseException | None = None

    def start(
        self,
        step: int,
        flat: dict[str, jax.Array],
        info: dict[str, Any],
        distrusted: frozenset[int],
    ) -> None:
        """Start a save; return once the device buffers may be donated. A collective.

        Args:
            step: steps trained.
            flat: the arrays by path in the state.
            info: the caller's own, as plain JSON.
            distrusted: steps whose checkpoints look complete and are known to be damaged: they
                may be replaced, and do not count among those that are kept.
        """
        assert self._thread is None, "a save is still running: wait() first"
        agree.primary_does(lambda: directory.stage(self._root, step, distrusted))
        self._store.start_write(directory.staging_of(self._root, step) / directory.ARRAYS, flat)
        self._step = step
        self._thread = threading.Thread(
            target=self._finish, args=(tree.specs_of(flat), info, distrusted), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when the running save, if any, is a checkpoint. A collective.

        Raises:
            CheckpointError: It failed, in whichever process.
        """
        if self._thread is None:
            return
        failure = self._join()
        reports = agree.gather("" if failure is None else f"{type(failure).__name__}: {failure}")
        failed = [f"process {i}: {report}" for i, report in enumerate(reports) if report]
        if failed:
            raise CheckpointError(
                f"saving step {self._step} in {self._root} failed, earlier checkpoints are "
                f"untouched. {'; '.join(failed)}"
            ) from failure

    def abandon(self) -> None:
        """End the running save without talking to other processes: one of us is failing."""
        if self._thread is None:
            return
        failure = self._join()
        if failure is not None:
            logger.error("saving step %d failed: %s", self._step, failure)

    def _join(self) -> BaseException | None:
        assert self._thread is not None, "no save is running"
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        return failure

    def _finish(self, specs: tree.Specs, info: dict[str, Any], distrusted: frozenset[int]) -> None:
        try:
            self._store.wait()
            if agree.is_primary():
                staging = directory.staging_of(self._root, self._step)
                directory.commit(self._root, manifest.build(staging, self._step, info, specs))
                directory.prune(self._root, self._keep, distrusted - {self._step})
        except BaseException as error:  # raised again by wait()
            self._failure = error
