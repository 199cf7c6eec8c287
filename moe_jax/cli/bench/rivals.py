"""`moe-jax bench rivals`: ours beside what else is installed. Measuring is `bench/rivals/`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import require_writable, write_json
from moe_jax.cli.shared.options import add_override_argument
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.errors import UserError

if TYPE_CHECKING:
    from moe_jax.bench.rivals.task import Task

#: Of `bench/grouped/shapes.py` and `bench/rivals/problem.py`, which are not imported to print help.
SHAPES = ("olmoe", "qwen3", "paper", "tiny")
ROUTINGS = ("balanced", "random", "skewed")
BATCHES = (4, 8)


def add_rivals(suites: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the suite `rivals` and its arguments."""
    parser = suites.add_parser(
        "rivals",
        help="the same layer or training step beside torch, transformers and plain JAX",
        description=(
            "Run the same MoE layer, or training step, with everything that is installed: the same "
            "weights, tokens and routing, checked against float32, each in a process of its own."
        ),
    )
    parser.add_argument("--what", choices=("layer", "step"), default="layer")
    parser.add_argument("--shape", choices=SHAPES, default="olmoe", help="(%(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=0, metavar="N", help="of a layer (what the shape says)"
    )
    parser.add_argument(
        "--routing", nargs="+", choices=ROUTINGS, default=ROUTINGS, help="of a layer (all)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=BATCHES,
        metavar="N",
        help="sequences of a step, one or several sizes (4 8)",
    )
    parser.add_argument(
        "--length", type=int, default=4096, metavar="N", help="of a sequence (%(default)s)"
    )
    parser.add_argument(
        "--layers", type=int, default=4, metavar="N", help="of a step's model (%(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these contestants, not all"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="how often, 2 or more (%(default)s)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=240.0,
        metavar="SECONDS",
        help="for each contestant, who then gives up (%(default)s)",
    )
    add_override_argument(parser, "change a value of our config")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.set_defaults(run=run_rivals)


def run_rivals(args: argparse.Namespace) -> int:
    """Measure, print, write `--json`; return an exit code.

    Raises:
        UserError: a number is out of range, or nobody is called what `--only` says.
    """
    require_writable(args.json)
    if min(*args.batch, args.length, args.layers) < 1 or args.tokens < 0:
        raise UserError("--batch, --length, --layers and --tokens must be 1 or more")
    if args.repeats < 2:
        raise UserError(f"--repeats ({args.repeats}) must be 2 or more: the spread needs them")
    import_jax()
    from moe_jax.bench.rivals.amount import amount_of
    from moe_jax.bench.rivals.contest import hold
    from moe_jax.bench.rivals.result import Contest
    from moe_jax.cli.bench.rival_tables import rival_line, rival_table
    from moe_jax.cli.bench.tables import console

    # The devices are for the contestants.
    task, out, rows = _request(args), console(process=0), []
    for row in hold(task, amount_of(task), tuple(args.only), args.limit):
        out.print(f"  {rival_line(row)}")
        rows.append(row)
    result = Contest.of(task, rows)
    out.print(rival_table(result))
    if args.json is not None:
        write_json(args.json, result.to_json())
    return exit_codes.OK


def _request(args: argparse.Namespace) -> "Task":
    from moe_jax.bench.rivals.task import Task
    from moe_jax.mesh.platform import count_gpus

    platform = "gpu" if count_gpus() else "cpu"
    return Task(
        contestant="",
        what=args.what,
        shape=args.shape,
        cases=tuple(args.routing if args.what == "layer" else map(str, args.batch)),
        # CPUs compute in float32.
        dtype="bfloat16" if platform == "gpu" else "float32",
        platform=platform,
        repeats=args.repeats,
        tokens=args.tokens,
        length=args.length,
        layers=args.layers,
        overrides=tuple(args.overrides),
        folder="",
    )
