"""`moe-jax bench grouped`: the experts' grouped matmuls. Measuring is `bench/grouped/`."""

import argparse

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.errors import UserError

#: Of `bench/grouped/shapes.py`, which is not imported to print help.
SHAPES = ("olmoe", "qwen3", "paper", "tiny")


def add_grouped(suites: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the suite `grouped` and its arguments."""
    parser = suites.add_parser(
        "grouped",
        help="the experts' grouped matmuls: checked, tuned and timed, beside torch's",
        description=(
            "Check the grouped MLP of experts against float32 on this device, then time it, "
            "forward and with gradients, for balanced, random and skewed sizes of the groups."
        ),
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=SHAPES[:3], help="layers (%(default)s)"
    )
    parser.add_argument(
        "--implementation",
        choices=("mosaic", "blocks", "dense", "torch"),
        default="mosaic",
        help="what is timed; torch: torch's own grouped product, unchecked (%(default)s)",
    )
    parser.add_argument(
        "--tune", action="store_true", help="first time every choice of mosaic's tiles (minutes)"
    )
    parser.add_argument("--no-check", action="store_true", help="time only")
    parser.set_defaults(run=run_grouped)


def run_grouped(args: argparse.Namespace) -> int:
    """Check, measure and print; return an exit code.

    Raises:
        UserError: the implementation cannot run here.
    """
    if args.tune and args.implementation != "mosaic":
        raise UserError(f"--tune is for mosaic, not for {args.implementation}: leave it out")
    import_jax()
    if args.implementation == "torch":
        _time_torch(args.shapes)
    else:
        _time(args)
    return exit_codes.OK


def _time(args: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp

    from moe_jax.bench.grouped.check import check
    from moe_jax.bench.grouped.kernels import time_mlp, tune
    from moe_jax.bench.grouped.shapes import SHAPES, group_sizes, random_operands

    device = jax.devices()[0]
    if args.implementation == "mosaic" and device.platform != "gpu":
        raise UserError(
            f"--implementation mosaic needs a Hopper GPU and the device is a {device.platform}: "
            "use --implementation blocks"
        )
    print(f"{device.device_kind}, JAX {jax.__version__}", flush=True)
    if not args.no_check:
        check(args.implementation, report=_say)
    for name in args.shapes:
        shape = SHAPES[name]
        print(f"{name}: {shape}", flush=True)
        operands = random_operands(shape)
        if args.tune:
            tune(shape, operands, jnp.asarray(group_sizes(shape, "random")), report=_say)
        for time in time_mlp(shape, operands, args.implementation):
            _say(f"  {time.line()}")


def _time_torch(names: list[str]) -> None:
    from moe_jax.bench.grouped.shapes import SHAPES

    try:
        import torch
    except ImportError as error:
        raise UserError(f"--implementation torch needs torch: {error}") from error
    if not torch.cuda.is_available():
        raise UserError("--implementation torch needs a GPU, and torch sees none")
    from moe_jax.bench.grouped.torch_mlp import describe_torch, time_torch_mlp

    print(describe_torch(), flush=True)
    for name in names:
        print(f"{name}: {SHAPES[name]}", flush=True)
        for line in time_torch_mlp(SHAPES[name]):
            _say(f"  {line}")


def _say(line: str) -> None:
    print(line, flush=True)
