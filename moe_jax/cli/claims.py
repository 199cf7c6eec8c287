"""`moe-jax claims [CONFIG]`: the paper's claims, one by one, against what we compile and model.

What is claimed and how it is checked is `planner/claims/paper.py` and its neighbours; nothing here
computes a figure.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import config_of_source_tree, require_writable, write_json
from moe_jax.cli.shared.options import add_config_arguments, load
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import load_calibration

if TYPE_CHECKING:
    from moe_jax.planner.claims.report import ClaimsReport

#: Of the paper's smallest cluster, in the source tree.
CONFIG = "paper_ep16.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Compile the paper's model for its clusters (2 to 16 hosts of 8 H100, none of them "
        "there) and check each of the paper's claims: what we get, whether that is compiled or "
        "modelled, and what it would take for the claim to hold. CONFIG is that of the "
        f"smallest cluster (default: configs/{CONFIG} of this source tree). Takes minutes."
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
    """Compile, check, print, write; return an exit code.

    Raises:
        UserError: the config cannot be found, scaled or compared, or the plan extra is missing.
    """
    args.config = args.config or config_of_source_tree(CONFIG, "moe-jax claims")
    calibration = None if args.calibration is None else load_calibration(args.calibration)
    require_writable(args.json)
    if args.plans is not None and args.plans.exists() and not args.plans.is_dir():
        raise UserError(f"cannot write plans to {args.plans}: it is a file, give a directory")
    config = load(args)
    import_jax()
    from moe_jax.planner.claims.report import check_claims
    from moe_jax.planner.claims.table import claims_table

    report = check_claims(config, calibration)
    width = None if sys.stdout.isatty() else 180
    Console(width=width, highlight=False).print(claims_table(report))
    write(report, args.json, args.plans)
    return exit_codes.OK


def write(report: "ClaimsReport", findings: Path | None, plans: Path | None) -> None:
    """Write the findings to a file, and every plan to `NAME.json` in a directory.

    Args:
        report: what was checked.
        findings: the file; None for none.
        plans: the directory, made if it is not there; None for none.
    """
    if findings is not None:
        write_json(findings, report.to_json())
    if plans is not None:
        plans.mkdir(parents=True, exist_ok=True)
        for name, plan in report.plans.items():
            write_json(plans / f"{name}.json", plan.to_json())
