"""Output directories that appear whole or not at all.

Everything is written to a directory beside the wanted one, which takes its name by one rename. What
is written is others' business.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_jax.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give an empty directory that becomes `out` at the end; after an error it is removed.

    A process that is killed leaves `.NAME.partial-*` beside `out`, never a part of `out`. It may
    be somebody's running conversion as well, so the next one names it and leaves it there.

    Raises:
        UserError: `out` is there already, or nothing can be made at that place.
    """
    out = out.absolute()
    refuse_existing(out)
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{str(out)!r}: {partial.name!r} cannot be made beside it ({reason}): give another "
            "output directory"
        ) from error
    for leftover in sorted(out.parent.glob(f".{out.name}.partial-*")):
        if leftover != partial:
            logger.warning("%s: an unfinished output; delete it if nothing is writing it", leftover)
    try:
        yield partial
        refuse_existing(out)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    flush(out.parent)


def refuse_existing(out: Path) -> None:
    """Raise UserError if something is at `out`."""
    if os.path.lexists(out):
        raise UserError(f"{out} exists and is never overwritten: move it away, or give another")


def flush(path: Path) -> None:
    """Make a file's content, or a directory's names, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
