"""Finding a good checkpoint, verifying it and reading it onto the wanted shardings.

What a good one is, is decided in `directory.py` (names, sizes) and `manifest.py` (contents);
saving is in `saving.py`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from moe_jax.checkpoint import agree, directory, manifest, tree
from moe_jax.checkpoint.arrays import ArrayStore
from moe_jax.checkpoint.directory import Listing, Rejected
from moe_jax.checkpoint.errors import CheckpointError, DamagedCheckpointError

Step = int | Literal["latest"]
Missing = Literal["none", "error"]
Extra = Literal["error", "ignore"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """Arrays of one verified checkpoint by path, and what was passed over to get to it."""

    contents: manifest.Manifest
    arrays: dict[str, jax.Array]
    rejected: list[Rejected]


class Restorer:
    """Reads checkpoints below `root`. All methods are collectives.

    `distrusted` holds the steps whose files were found damaged although their sizes are right.
    """

    def __init__(self, root: Path, verify: manifest.Verify, store: ArrayStore) -> None:
        self._root = root
        self._verify: manifest.Verify = verify
        self._store = store
        self.distrusted: frozenset[int] = frozenset()

    def load_newest(self, wanted: dict[str, Any], extra: Extra, missing: Missing) -> Loaded | None:
        """Load the newest good checkpoint; damaged ones are logged and passed over.

        Args:
            wanted: the arrays, with their shardings, by path in the state.
            extra: whether arrays that are saved and not wanted are an error.
            missing: whether a directory that never held a checkpoint is one.

        Returns:
            None where there never was one and `missing` allows it.

        Raises:
            CheckpointError: all are damaged, there is none, or the arrays do not fit.
        """
        listing = self._listing()
        rejected = list(listing.rejected)
        for entry in rejected:
            logger.warning("not a checkpoint: %s: %s", *entry)
        for step in reversed(listing.steps):
            try:
                contents, arrays = self._load(step, wanted, extra)
                return Loaded(contents, arrays, rejected)
            except DamagedCheckpointError as error:
                logger.warning("%s; trying the one before", error)
                rejected.append(Rejected(str(directory.path_of(self._root, step)), str(error)))
        if missing == "none" and not directory.claims(rejected):
            return None
        raise CheckpointError(directory.nothing_in(self._root, rejected))

    def load(self, step: int, wanted: dict[str, Any], extra: Extra) -> Loaded:
        """Load one checkpoint.

        Args:
            step: which.
            wanted: the arrays, with their shardings, by path in the state.
            extra: whether arrays that are saved and not wanted are an error.

        Raises:
            CheckpointError: says what is wrong with it.
        """
        listing = self._listing()
        directory.require(self._root, step, listing)
        contents, arrays = self._load(step, wanted, extra)
        return Loaded(contents, arrays, listing.rejected)

    def info(self, step: Step) -> dict[str, Any]:
        """Return the `info` of a checkpoint; its arrays are not read."""
        listing = self._listing()
        if step == "latest" and not listing.steps:
            raise CheckpointError(directory.nothing_in(self._root, listing.rejected))
        chosen = listing.steps[-1] if step == "latest" else step
        directory.require(self._root, chosen, listing)
        return self._intact(chosen, "sizes").info

    def _listing(self) -> Listing:
        """Process 0's view of the directory: shared disks may show others an older one."""
        own = directory.scan(self._root) if agree.is_primary() else Listing([], [])
        steps, rejected = agree.from_primary(own)
        trusted = [step for step in steps if step not in self.distrusted]
        return Listing(trusted, [Rejected(*entry) for entry in rejected])

    def _load(
        self, step: int, wanted: dict[str, Any], extra: Extra
    ) -> tuple[manifest.Manifest, dict[str, jax.Array]]:
        contents = self._intact(step, self._verify)
        where = f"the checkpoint of step {step} in {self._root}"
        tree.check_fits(contents.arrays, wanted, extra, where)
        failure, arrays = None, {}
        try:
            path = directory.path_of(self._root, step) / directory.ARRAYS
            arrays = self._store.read(path, wanted)
        except Exception as error:  # orbax and XLA raise all kinds; judged below
            failure = error
        reports = agree.gather("" if failure is None else f"{type(failure).__name__}: {failure}")
        if any(reports):
            self._intact(step, "digests")
            raise CheckpointError(
                f"{where} is intact, yet could not be read: {'; '.join(filter(None, reports))}"
            ) from failure
        assert tree.specs_of(arrays) == tree.specs_of(wanted), "orbax changed a shape or dtype"
        return contents, arrays

    def _intact(self, step: int, verify: manifest.Verify) -> manifest.Manifest:
        """Return the manifest, once the processes have checked the files, each a share of them."""
        path = directory.path_of(self._root, step)
        contents, faults = None, []
        try:
            contents = manifest.read(path)
            share = (jax.process_index(), jax.process_count())
            faults = manifest.failures(path, contents, verify, share)
        except CheckpointError as error:
            faults = [str(error)]
        faults = sorted({fault for theirs in agree.gather(faults) for fault in theirs})
        if faults:
            self.distrusted |= {step}
            raise DamagedCheckpointError(f"step {step} in {path} is damaged: {'; '.join(faults)}")
        assert contents is not None, "no fault, yet no manifest"
        return contents
