"""`moe-jax plan CONFIG --scaling 16,32,64,128 [--plot FILE]`: weak scaling of a config.

What the sizes mean is `planner/search/scaling.py`, the curve's picture `planner/pictures/plot.py`;
a plan of one config is `verb.py`.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from rich.console import Console

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import write_json
from moe_jax.config import Config
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.planner.compile.target import Target
from moe_jax.planner.pictures.plot import check_plot, plot_scaling
from moe_jax.planner.search.scaling import ScaleBy, scaled, scaling_curve, scaling_table

#: What only --scaling reads, and what it does not read.
_OWN = ("plot", "scaling_by")
_OTHERS = ("hosts", "require_hidden", "timeline", "trace")


def add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --scaling and what only it reads."""
    group = parser.add_argument_group("scaling over clusters")
    group.add_argument(
        "--scaling",
        type=_sizes,
        metavar="N,N,...",
        help="plan the config on so many devices each, with as many tokens on every device",
    )
    group.add_argument(
        "--scaling-by",
        choices=(*get_args(ScaleBy), "both"),
        help="what grows with the devices: experts (default), replicas of the same experts, or "
        "one curve for each",
    )
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curve, as .png, .svg or .pdf"
    )


def check_scaling_arguments(args: argparse.Namespace) -> None:
    """Refuse options that only --scaling reads without it, and with it those it does not read.

    Raises:
        UserError: naming the options.
    """
    names = _OWN if args.scaling is None else _OTHERS
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given and args.scaling is None:
        raise UserError(f"only --scaling reads {' and '.join(given)}: add --scaling 16,32,64")
    if given:
        raise UserError(f"--scaling does not read {' and '.join(given)}: plan one size with them")


def run_scaling(
    args: argparse.Namespace,
    config: Config,
    target_of: Callable[[Config], Target],
    calibration: Calibration | None,
) -> int:
    """Plan every size, print and draw the curves; return an exit code.

    Args:
        args: the command line.
        config: what is scaled.
        target_of: the cluster of a config.
        calibration: measured rates, if any.

    Raises:
        UserError: a size that the config cannot have, or the plot extra is missing.
    """
    from moe_jax.planner.planning import Request, plan_all

    if args.plot:
        check_plot(args.plot)
    readings = get_args(ScaleBy) if args.scaling_by == "both" else (args.scaling_by or "experts",)
    configs = [(by, scaled(config, n, by)) for by in readings for n in args.scaling]
    requests = [Request(c, target_of(c), args.mode) for _, c in configs]
    plans = plan_all(requests, calibration=calibration)
    curves = []
    for by in readings:
        mine = tuple(p for (of, _), p in zip(configs, plans, strict=True) if of == by)
        curves.append(scaling_curve(f"{by} grow", mine))
    title = f"{config.name}, {args.mode}: weak scaling on {plans[0].target.gpu.title}"
    width = None if sys.stdout.isatty() else 120
    Console(width=width, highlight=False).print(scaling_table(curves, title))
    if args.json:
        by_name = {p.config.name: p.to_json() for p in plans}
        write_json(args.json, {"curves": [asdict(c) for c in curves], "plans": by_name})
    if args.plot:
        plot_scaling(curves, args.plot, title=title)
        print(f"wrote the curve to {args.plot}")
    return exit_codes.OK


def _sizes(text: str) -> tuple[int, ...]:
    """Parse "16,32": different numbers of devices."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers of devices, such as 16,32,64")
    sizes = sorted({int(part) for part in parts})
    return tuple(sizes)
