"""The directory of a run's checkpoints: names, listing, committing, deleting.

    00000100/           a checkpoint of step 100: arrays/ (orbax's files) and manifest.json
    tmp.00000120/       a save that is under way, or was when its process died
    tmp.removed.*/      a deletion, likewise

A checkpoint gets its name by one rename, after its manifest was written and flushed. What is
inside a manifest is `manifest.py`'s business. The directory must be a POSIX file system that all
processes see; only process 0 calls what changes it.
"""

import logging
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from moe_jax.checkpoint import manifest
from moe_jax.checkpoint.errors import CheckpointError
from moe_jax.workdir import SET_ASIDE

ARRAYS = "arrays"
TEMPORARY = "tmp."

logger = logging.getLogger(__name__)


class Rejected(NamedTuple):
    """Something in the directory that is not a good checkpoint, and why."""

    path: str
    reason: str


class Listing(NamedTuple):
    """Complete steps in ascending order, and everything else."""

    steps: list[int]
    rejected: list[Rejected]


def path_of(directory: Path, step: int) -> Path:
    """Return where the checkpoint of `step` is."""
    return directory / f"{step:08d}"


def is_step_name(name: str) -> bool:
    """Whether a file of this name claims to be a checkpoint."""
    return name.isascii() and name.isdigit()


def scan(directory: Path) -> Listing:
    """List what is there. Manifests and file sizes are checked, contents are not."""
    listing = Listing([], [])
    if not directory.exists():
        return listing
    for path in sorted(directory.iterdir(), key=lambda path: path.name):
        reason = _fault(path)
        if reason:
            listing.rejected.append(Rejected(str(path), reason))
        else:
            listing.steps.append(int(path.name))
    listing.steps.sort()
    return listing


def require(directory: Path, step: int, listing: Listing) -> None:
    """Refuse a step that is no complete checkpoint.

    Args:
        directory: of checkpoints.
        step: what has to be there.
        listing: what `scan` says of the directory.

    Raises:
        CheckpointError: says what is wrong with it, or which steps are there.
    """
    if step in listing.steps:
        return
    for entry in claims(listing.rejected):
        if int(Path(entry.path).name) == step:
            raise CheckpointError(f"step {step} in {entry.path} is damaged: {entry.reason}")
    raise CheckpointError(
        f"no good checkpoint of step {step} in {directory}, which holds: "
        f"{', '.join(map(str, listing.steps)) or 'none'}"
    )


def claims(rejected: list[Rejected]) -> list[Rejected]:
    """Return those that are named like a checkpoint, unlike leftovers and strangers."""
    return [entry for entry in rejected if is_step_name(Path(entry.path).name)]


def nothing_in(directory: Path, rejected: list[Rejected]) -> str:
    """Return the message for a directory without any good checkpoint."""
    remedy = "check the path, or start a run without resuming"
    if claims(rejected):
        remedy = "restore these from a copy, or move them away to start anew"
    reasons = "".join(f"\n  {path}: {reason}" for path, reason in rejected)
    return f"no good checkpoint in {directory}: {remedy}{reasons}"


def stage(directory: Path, step: int, distrusted: Collection[int]) -> Path:
    """Make an empty directory for the files of `step`; remove what dead processes left.

    Args:
        directory: of checkpoints; made if it is not there.
        step: what will be saved.
        distrusted: steps whose files looked complete and were found damaged.

    Raises:
        CheckpointError: Complete checkpoints of this or a later step are there.
    """
    later = [s for s in scan(directory).steps if s >= step and s not in distrusted]
    if later:
        raise CheckpointError(
            f"cannot save step {step} in {directory}: it holds step {later[-1]}, which a resumed "
            "run would take for the newest. Move that away, or use another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(TEMPORARY + "*"):
        logger.info("removing what an interrupted process left: %s", leftover)
        _remove(leftover)
    staging = staging_of(directory, step)
    staging.mkdir()
    return staging


def staging_of(directory: Path, step: int) -> Path:
    """Return where the files of `step` are while it is being written."""
    return directory / f"{TEMPORARY}{step:08d}"


def commit(directory: Path, contents: manifest.Manifest) -> None:
    """Make the staged files a checkpoint: writes the manifest, then renames, once."""
    staging = staging_of(directory, contents.step)
    final = path_of(directory, contents.step)
    manifest.write(staging, contents)
    if final.exists():
        _retire(final)  # `stage` refused unless this is known to be bad
    staging.rename(final)
    manifest.flush_directory(directory)


def prune(directory: Path, keep: int, distrusted: Collection[int]) -> None:
    """Delete all but the `keep` newest good checkpoints. Rejected ones stay, as evidence."""
    good = [step for step in scan(directory).steps if step not in distrusted]
    for step in good[:-keep]:
        _retire(path_of(directory, step))


def set_aside_after(directory: Path, step: int) -> list[Path]:
    """Move complete checkpoints later than `step` to `set-aside/` beside `directory`."""
    aside = directory.parent / SET_ASIDE
    moved = []
    for later in (s for s in scan(directory).steps if s > step):
        aside.mkdir(exist_ok=True)
        source = path_of(directory, later)
        taken = len(list(aside.glob(source.name + "*")))
        target = aside / (f"{source.name}.{taken}" if taken else source.name)
        source.rename(target)
        logger.warning("set aside the checkpoint of step %d: now %s", later, target)
        moved.append(target)
    return moved


def _fault(path: Path) -> str:
    if path.name.startswith(TEMPORARY):
        return "a save or a deletion that has not finished"
    if not is_step_name(path.name):
        return "not named like a checkpoint"
    step = int(path.name)
    if path.name != path_of(path.parent, step).name:
        return f"not named like a checkpoint: step {step} would be {path_of(path.parent, step)}"
    if not path.is_dir():
        return "not a directory"
    if not any(path.iterdir()):
        return "an empty directory"
    try:
        contents = manifest.read(path)
    except CheckpointError as error:
        return str(error)
    if contents.step != step:
        return f"its manifest says step {contents.step}: it was renamed or copied"
    return "; ".join(manifest.failures(path, contents, "sizes"))


def _retire(path: Path) -> None:
    """Delete; a deletion that is cut short leaves nothing that looks like a checkpoint."""
    target = path.with_name(f"{TEMPORARY}removed.{path.name}")
    path.rename(target)
    _remove(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
