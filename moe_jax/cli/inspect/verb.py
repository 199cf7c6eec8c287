"""`moe-jax inspect CHECKPOINT`: what a run's checkpoints hold, without devices or array data.

What is read from the disk, and how, is `checkpoint/contents.py`; the sizes of a config that has
not run are `doctor`'s.
"""

import argparse
import json
from pathlib import Path

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.errors import UserError
from moe_jax.interop.files.tokenizer_files import is_hf_directory
from moe_jax.workdir import CHECKPOINTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "List the checkpoints of a run, and what one of them holds: its config, data "
        "position, arrays and how they are stored. Starts no devices and reads no array data "
        f"(but --verify does). The exit code is {exit_codes.USER_ERROR} where no good "
        "checkpoint is found or --verify finds damage."
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=f"working directory of a run, its {CHECKPOINTS}/, or the directory of one step",
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
    import_jax()
    from moe_jax.checkpoint import locate, read_contents, scan
    from moe_jax.cli.inspect.report import config_text, print_tables, to_json

    root, named = locate(args.checkpoint)
    if named is not None and args.step not in (None, named):
        raise UserError(
            f"--step {args.step} and {args.checkpoint}, the directory of step {named}: give one "
            f"of them, or {root} with --step"
        )
    verified = "digests" if args.verify else "sizes"
    contents = read_contents(root, named if args.step is None else args.step, verified)
    if args.config:
        print(config_text(contents), end="")
        return exit_codes.OK
    if args.json:
        print(json.dumps(to_json(scan(root), contents, verified), indent=2))
    else:
        print_tables(scan(root), contents, verified)
    return exit_codes.USER_ERROR if contents.faults else exit_codes.OK
