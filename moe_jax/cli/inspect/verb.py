"""`moe-jax inspect CHECKPOINT`: what a run's checkpoints hold, without devices or array data.

What is read from the disk, and how, is `checkpoint/contents.py`; the sizes of a config that has
not run are `doctor`'s.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from moe_jax.checkpoint import (
    Contents,
    Listing,
    StoredArray,
    locate,
    read_contents,
    scan,
)
from moe_jax.cli.inspect.tables import (
    array_table,
    checkpoint_table,
    group_of,
    group_table,
    step_table,
)
from moe_jax.cli.shared import exit_codes
from moe_jax.config import Config, ConfigError, parse_config
from moe_jax.errors import UserError
from moe_jax.interop.files.tokenizer_files import is_hf_directory


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="say what a checkpoint holds",
        description=(
            "List the checkpoints of a run, and what one of them holds: its config, data "
            "position, arrays and how they are stored. Starts no devices and reads no array data "
            f"(but --verify does). The exit code is {exit_codes.USER_ERROR} where no good "
            "checkpoint is found or --verify finds damage."
        ),
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="working directory of a run, its checkpoints/, or the directory of one step",
    )
    parser.add_argument("--step", type=int, help="the checkpoint to show (default: newest good)")
    parser.add_argument(
        "--config", action="store_true", help="print the config it was saved with, as TOML, only"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read all files and compare them with their digests"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; return an exit code.

    Raises:
        UserError: there is no good checkpoint at the path, or none of that step.
    """
    if is_hf_directory(args.checkpoint):
        raise UserError(
            f"{args.checkpoint} is a Hugging Face directory, without checkpoints: import it with "
            f"`moe-jax convert from-hf {args.checkpoint} OUT`, then inspect OUT"
        )
    root, named = locate(args.checkpoint)
    if named is not None and args.step not in (None, named):
        raise UserError(
            f"--step {args.step} and {args.checkpoint}, the directory of step {named}: give one "
            f"of them, or {root} with --step"
        )
    verified = "digests" if args.verify else "sizes"
    contents = read_contents(root, named if args.step is None else args.step, verified)
    if args.config:
        print(_config_text(contents), end="")
        return exit_codes.OK
    if args.json:
        print(json.dumps(to_json(scan(root), contents, verified), indent=2))
    else:
        _print(scan(root), contents, verified)
    return exit_codes.USER_ERROR if contents.faults else exit_codes.OK


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


def _config_text(contents: Contents) -> str:
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


def _print(listing: Listing, contents: Contents, verified: str) -> None:
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
