"""`moe-jax claims [CONFIG]`: the paper's claims, one by one, against what we compile and model.

What is claimed and how it is checked is `planner/claims/paper.py` and its neighbours; nothing here
computes a figure.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from moe_jax.cli.plan.verb import chosen_calibration, require_writable
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import add_config_arguments, load
from moe_jax.errors import UserError
from moe_jax.planner.claims.report import ClaimsReport, check_claims
from moe_jax.planner.claims.table import claims_table

#: Holds moe_jax/ and, unless the package was installed without it, configs/.
SOURCE_TREE = Path(__file__).parents[2]
CONFIG = Path("configs", "paper_ep16.toml")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "claims",
        help="check the paper's claims",
        description=(
            "Compile the paper's model for its clusters (2 to 16 hosts of 8 H100, none of them "
            "there) and check each of the paper's claims: what we get, whether that is compiled or "
            "modelled, and what it would take for the claim to hold. CONFIG is that of the "
            f"smallest cluster (default: {CONFIG} of this source tree). Takes minutes."
        ),
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    parser.add_argument(
        "--plans", type=Path, metavar="DIR", help="write the JSON of every plan they rest on"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="rates measured by `moe-jax bench calibrate`, in place of estimates of compute",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compiles, checks, prints, writes; returns an exit code.

    Raises:
        UserError: the config cannot be found, scaled or compared, or the plan extra is missing.
    """
    args.config = args.config or default_config()
    calibration = chosen_calibration(args)
    require_writable(args.json)
    if args.plans is not None and args.plans.exists() and not args.plans.is_dir():
        raise UserError(f"cannot write plans to {args.plans}: it is a file, give a directory")
    found = check_claims(load(args), calibration)
    width = None if sys.stdout.isatty() else 180
    Console(width=width, highlight=False).print(claims_table(found))
    write(found, args.json, args.plans)
    return exit_codes.OK


def default_config() -> Path:
    """The paper's smallest config, of the source tree that this package is run from.

    Raises:
        UserError: the package is installed without its source tree.
    """
    path = SOURCE_TREE / CONFIG
    if not path.is_file():
        raise UserError(
            f"{CONFIG} is part of the source tree and is not installed with the package: give its "
            f"path, as in moe-jax claims path/to/{CONFIG}"
        )
    return path


def write(found: ClaimsReport, findings: Path | None, plans: Path | None) -> None:
    """Write the findings to a file, and every plan to `NAME.json` in a directory."""
    if findings is not None:
        _write(findings, found.to_json())
    if plans is not None:
        plans.mkdir(parents=True, exist_ok=True)
        for name, plan in found.plans.items():
            _write(plans / f"{name}.json", plan.to_json())


def _write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
