"""`moe-jax plan CONFIG`: memory, overlap, network and speed on a cluster that is not there.

What is compiled and read off is `planner/planning.py`; nothing here computes a figure.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

from moe_jax.cli.plan.pictures import add_picture_arguments, draw_pictures
from moe_jax.cli.plan.scaling import add_scaling_arguments, check_scaling_arguments, run_scaling
from moe_jax.cli.plan.search import add_search_arguments, check_search_arguments, run_search
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import require_writable, write_json
from moe_jax.cli.shared.options import add_config_arguments, load, share
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import Config, load_config
from moe_jax.errors import UserError
from moe_jax.planner.compile.target import Target
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.results import Plan
from moe_jax.planner.xla.overlap import OverlapLost, layer_timelines, own_times, require_hidden


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Compile the very program that would run, for a cluster that is not there, and print "
        "its memory, times, network traffic and speed. Every line says whether it is compiled "
        "(XLA's own result) or modelled (arithmetic on the assumptions listed)."
    )
    add_config_arguments(parser)
    add_target_arguments(parser)
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="forward",
        help="the program: a batch's loss (forward, the default), the training step, or the next "
        "token of each sequence",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument(
        "--require-hidden",
        type=share,
        metavar="SHARE",
        help=f"fail (exit code {exit_codes.NOT_HIDDEN}) unless this share of each layer's "
        "all-to-all hides, such as 0.9",
    )
    add_picture_arguments(parser)
    add_scaling_arguments(parser)
    add_search_arguments(parser)
    parser.set_defaults(run=run)


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the cluster and how its speed is known."""
    group = parser.add_argument_group("the cluster")
    group.add_argument("--gpu", default="h100", metavar="NAME", help="h100 (default), h200, ...")
    group.add_argument("--hosts", type=int, metavar="N", help="default: as many as the mesh fills")
    group.add_argument("--devices-per-host", type=int, metavar="N", help="default: 8, or the mesh")
    group.add_argument("--hardware", type=Path, metavar="FILE", help="GPUs and clusters of yours")
    group.add_argument(
        "--calibration",
        metavar="FILE|recorded",
        help="measured rates in place of XLA's estimates of compute: a file of `moe-jax bench "
        "calibrate`, or our own record of the GPU",
    )


def run(args: argparse.Namespace) -> int:
    """Plan, print, write; return an exit code.

    Raises:
        UserError: the config, the target or a file is wrong, or the plan extra is missing.
    """
    check_search_arguments(args)
    check_scaling_arguments(args)
    # A search checks every layout that it makes of the config, not the config itself.
    config = load_config(args.config, args.overrides) if args.search else load(args)
    require_writable(args.json, args.timeline, args.trace, args.out)
    import_jax()
    from moe_jax.planner.api import calibration_for
    from moe_jax.planner.planning import plan

    calibration = calibration_for(args.calibration, args.gpu)
    if args.scaling:
        return run_scaling(args, config, lambda c: chosen_target(args, c), calibration)
    target = chosen_target(args, config, mesh_varies=args.search)
    if args.search:
        return run_search(args, config, target, calibration)
    result = plan(config, target, args.mode, calibration=calibration)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(result)
    if args.json:
        write_json(args.json, result.to_json())
    draw_pictures(args, result)
    return exit_codes.OK if args.require_hidden is None else _judge(result, args.require_hidden)


def chosen_target(args: argparse.Namespace, config: Config, *, mesh_varies: bool = False) -> Target:
    """Return the cluster that `add_target_arguments` asked for; see `planner.api.target_for`.

    Args:
        args: the command line.
        config: what is to run there.
        mesh_varies: whether other meshes than the config's are looked for.

    Raises:
        UserError: an unknown GPU, or a mesh that does not fill whole hosts.
    """
    from moe_jax.planner.api import target_for

    return target_for(
        config,
        args.gpu,
        args.hosts,
        args.devices_per_host,
        hardware=args.hardware,
        mesh_varies=mesh_varies,
    )


def _judge(plan: Plan, hidden: float) -> int:
    """Print whether each layer hides its exchange; return the exit code."""
    layers, own = layer_timelines(plan.timelines), own_times(plan.timelines)
    timelines = (*layers.forward, *layers.backward)
    if not timelines:
        raise UserError("--require-hidden: this program has no all-to-all in its layers")
    for timeline in timelines:
        direction = "backward" if timeline.is_backward else "forward"
        try:
            print(f"{direction} layer hides: {require_hidden(timeline, hidden, own=own)}")
        except OverlapLost as lost:
            print(f"moe-jax plan: {direction} layer: {lost}", file=sys.stderr)
            return exit_codes.NOT_HIDDEN
    return exit_codes.OK
