"""`moe-jax plan CONFIG --search`: the best layout of a config's model and batch on a cluster.

The search is `planner/search/search.py` and `planner/search/finals.py`; a plan of one config is
`cli/plan/verb.py`.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import positive
from moe_jax.config import Config
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.planner.compile.jobs import require_plan_extra
from moe_jax.planner.compile.target import Target

#: Options that only --search reads, and those of a single plan.
_OWN = ("top", "out")
_OTHERS = ("json", "require_hidden", "timeline", "trace", "scaling")


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --search and what only it reads."""
    group = parser.add_argument_group("searching a layout")
    group.add_argument(
        "--search",
        action="store_true",
        help="try every mesh, sharding, pipeline, streams, capacity factor, rematerialisation and "
        "accumulation for the config's model and global batch on these devices; rank by "
        "arithmetic, compile the best",
    )
    group.add_argument(
        "--top", type=positive, metavar="N", help="layouts that --search compiles (default 3)"
    )
    group.add_argument(
        "--out", type=Path, metavar="FILE.toml", help="write what --search found best, complete"
    )


def check_search_arguments(args: argparse.Namespace) -> None:
    """Refuse options that only --search reads without it, and with it those it does not read.

    Raises:
        UserError: naming the options.
    """
    names = _OTHERS if args.search else _OWN
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given and args.search:
        raise UserError(
            f"--search does not read {' and '.join(given)}: write its winner with --out and plan "
            "that file"
        )
    if given:
        raise UserError(f"only --search reads {' and '.join(given)}: add --search")


def run_search(
    args: argparse.Namespace,
    config: Config,
    target: Target,
    calibration: Calibration | None,
) -> int:
    """Search, print, write the winner; return an exit code.

    Args:
        args: the command line.
        config: whose model and batch are laid out.
        target: the cluster.
        calibration: measured rates, if any.

    Raises:
        NothingFits: no layout can run.
        UserError: the plan extra is missing.
    """
    from moe_jax.planner.search.finals import compile_finalists, winner_toml
    from moe_jax.planner.search.search import search
    from moe_jax.planner.search.table import finals_table

    require_plan_extra()
    layouts = search(config, target, args.mode, calibration=calibration)
    finals = compile_finalists(layouts, args.top or 3, calibration=calibration)
    width = None if sys.stdout.isatty() else 120
    Console(width=width, highlight=False).print(finals_table(finals))
    text = winner_toml(finals)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
        print(f"wrote the first to {args.out}")
    return exit_codes.OK
