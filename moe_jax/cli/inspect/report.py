"""Everything that `moe-jax inspect` says of a checkpoint, as values for JSON and as tables.

How the tables look is `tables.py`; what is read, and when, is `verb.py`.
"""

import sys
from typing import Any

from rich.console import Console

from moe_jax.checkpoint import Contents, Listing, StoredArray
from moe_jax.cli.inspect.tables import (
    array_table,
    checkpoint_table,
    group_of,
    group_table,
    step_table,
)
from moe_jax.config import Config, ConfigError, parse_config
from moe_jax.errors import UserError


def to_json(listing: Listing, contents: Contents, verified: str) -> dict[str, Any]:
    """Return everything that the tables say.

    Args:
        listing: all checkpoints beside this one.
        contents: this one.
        verified: what was compared of its files: "sizes" or "digests".
    """
    config, problem = saved_config(contents)
    return {
        "path": str(contents.path),
        "steps": listing.steps,
        "rejected": [entry._asdict() for entry in listing.rejected],
        "step": contents.step,
        "name": config.name if config else None,
        "next_sequence": contents.step * config.train.global_batch if config else None,
        "seed": config.seed if config else None,
        "config": contents.info.get("config"),
        "config_problem": problem or None,
        "data": contents.info.get("data"),
        "versions": contents.info.get("versions"),
        "writers": contents.writers,
        "files": contents.files,
        "file_bytes": contents.file_bytes,
        "verified": verified,
        "faults": contents.faults,
        "arrays": [_array_json(array) for array in contents.arrays],
    }


def saved_config(contents: Contents) -> tuple[Config | None, str]:
    """Return the config that was saved, or None and the reason."""
    text = contents.info.get("config")
    if text is None:
        return None, "none was saved with it"
    try:
        return parse_config(text), ""
    except ConfigError as error:
        return None, f"this version cannot read it (--config prints it): {error}"


def config_text(contents: Contents) -> str:
    """Return the config that was saved, as TOML.

    Raises:
        UserError: there is none.
    """
    text = contents.info.get("config")
    if text is None:
        raise UserError(f"{contents.path} was saved without a config: leave out --config")
    return text


def _array_json(array: StoredArray) -> dict[str, Any]:
    return {
        "name": array.name,
        "group": group_of(array),
        "shape": array.shape,
        "dtype": array.dtype,
        "bytes": array.size,
        "chunk": array.chunk,
        "chunks": array.chunks,
        "mesh": dict(array.mesh),
        "split": array.spec,
    }


def print_tables(listing: Listing, contents: Contents, verified: str) -> None:
    """Print what `to_json` holds, of the same arguments."""
    # A file has no width: wide enough for the arrays.
    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, markup=False, highlight=False)
    config, problem = saved_config(contents)
    console.print(
        step_table(listing, contents.step),
        checkpoint_table(contents, config, problem),
        group_table(contents.arrays),
        array_table(contents.arrays),
        sep="\n",
    )
    if contents.faults:
        console.print(f"Damaged: {'; '.join(contents.faults)}")
    elif verified == "digests":
        console.print(f"Good: the digests of all {contents.files} files match.")
    else:
        console.print(f"Complete: sizes of all {contents.files} files match (--verify: contents).")
