"""`moe-jax plan CONFIG`: memory, overlap, network and speed on a cluster that is not there.

What is compiled and read off is `planner/planning.py`; nothing here computes a figure.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

from moe_jax.cli.plan.pictures import add_picture_arguments, draw_pictures
from moe_jax.cli.plan.scaling import add_scaling_arguments, check_scaling_arguments, run_scaling
from moe_jax.cli.plan.search import add_search_arguments, check_search_arguments, run_search
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import add_config_arguments, load
from moe_jax.config import Config, load_config
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration, load_calibration, recorded
from moe_jax.mesh.build import mesh_shape
from moe_jax.planner.compile.hardware_file import known_hardware, load_hardware
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import plan
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.results import Plan
from moe_jax.planner.xla.overlap import OverlapLost, layer_timelines, own_times, require_hidden


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="say what a config needs on a cluster, and how fast it is there",
        description=(
            "Compile the very program that would run, for a cluster that is not there, and print "
            "its memory, times, network traffic and speed. Every line says whether it is compiled "
            "(XLA's own result) or modelled (arithmetic on the assumptions listed)."
        ),
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
    """Plans, prints, writes; returns an exit code.

    Raises:
        UserError: the config, the target or a file is wrong, or the plan extra is missing.
    """
    check_search_arguments(args)
    check_scaling_arguments(args)
    # A search checks every layout that it makes of the config, not the config itself.
    config = load_config(args.config, args.overrides) if args.search else load(args)
    calibration = chosen_calibration(args)
    for path in (args.json, args.timeline, args.trace):
        require_writable(path)
    if args.scaling:
        return run_scaling(args, config, lambda c: chosen_target(args, c), calibration)
    target = chosen_target(args, config, mesh_varies=args.search)
    if args.search:
        require_writable(args.out)
        return run_search(args, config, target, calibration)
    made = plan(config, target, args.mode, calibration=calibration)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(made)
    if args.json:
        args.json.write_text(json.dumps(made.to_json(), indent=2) + "\n", encoding="utf-8")
    draw_pictures(args, made)
    return exit_codes.OK if args.require_hidden is None else _judge(made, args.require_hidden)


def chosen_target(args: argparse.Namespace, config: Config, *, mesh_varies: bool = False) -> Target:
    """The cluster that `add_target_arguments` asked for; sizes left open fit the mesh.

    Args:
        mesh_varies: whether other meshes than the config's are looked for, so that the cluster
            may have another number of devices.

    Raises:
        UserError: an unknown GPU, or a mesh that does not fill whole hosts.
    """
    hardware = load_hardware(args.hardware) if args.hardware else known_hardware()
    devices = math.prod(mesh_shape(config.mesh))
    per_host = min(8, devices) if args.devices_per_host is None else args.devices_per_host
    if per_host < 1:
        raise UserError(f"--devices-per-host {per_host} must be 1 or more")
    hosts = -(-devices // per_host) if args.hosts is None else args.hosts
    if hosts * per_host != devices and not mesh_varies:
        raise UserError(
            f"the mesh has {devices} devices and {hosts} hosts x {per_host} are {hosts * per_host}:"
            " set --hosts and --devices-per-host so that their product is the mesh's, or change "
            "the mesh with --set mesh.expert=..."
        )
    return hardware.target(args.gpu, hosts, per_host)


def chosen_calibration(args: argparse.Namespace) -> Calibration | None:
    """The calibration that `add_target_arguments` asked for.

    Raises:
        UserError: a file that is none, or a GPU that we have no record of.
    """
    if args.calibration is None:
        return None
    if args.calibration != "recorded":
        return load_calibration(args.calibration)
    found = recorded(args.gpu)
    if found is None:
        raise UserError(
            f"--calibration recorded: there is no record of {args.gpu}; calibrate one with "
            "`moe-jax bench calibrate` and pass its file"
        )
    return found


def require_writable(path: Path | None) -> None:
    """Refuse, before anything compiles, a file that could not be written afterwards."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"cannot write {path}: give a file in a directory that exists")


def share(text: str) -> float:
    """Parse a share of 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1, such as 0.9")
    return value


def _judge(made: Plan, hidden: float) -> int:
    """Print whether each layer hides its exchange; return the exit code."""
    layers, own = layer_timelines(made.timelines), own_times(made.timelines)
    found = (*layers.forward, *layers.backward)
    if not found:
        raise UserError("--require-hidden: this program has no all-to-all in its layers")
    for timeline in found:
        direction = "backward" if timeline.is_backward else "forward"
        try:
            print(f"{direction} layer hides: {require_hidden(timeline, hidden, own=own)}")
        except OverlapLost as lost:
            print(f"moe-jax plan: {direction} layer: {lost}", file=sys.stderr)
            return exit_codes.NOT_HIDDEN
    return exit_codes.OK
