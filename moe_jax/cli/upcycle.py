"""`moe-jax upcycle DENSE OUT`: make a Mixture of Experts of a dense model.

How, is `interop/upcycle.py`.
"""

import argparse
from pathlib import Path

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.byte_progress import ByteProgress
from moe_jax.cli.shared.options import add_override_argument
from moe_jax.cli.shared.quiet import import_jax


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Copy each MLP of DENSE (a Hugging Face directory or a working directory) into experts "
        "beside a fresh router, and write a working directory to train on. At first the model "
        "computes what DENSE computes, if --top-k is a multiple of --granularity and there is "
        "no noise."
    )
    parser.add_argument("dense", type=Path, metavar="DENSE", help="the dense model")
    parser.add_argument("out", type=Path, metavar="OUT", help="the working directory to make")
    parser.add_argument("--experts", type=int, default=8, metavar="N", help="copies of each MLP")
    parser.add_argument(
        "--granularity", type=int, default=1, metavar="G", help="experts that a copy is cut into"
    )
    parser.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="experts that a token visits (default: 2 copies, that is 2 x G)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="every Nth layer gets experts"
    )
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="STD", help="added to experts' weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="of routers and noise")
    parser.add_argument("--step", type=int, help="of a working directory: checkpoint to use")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of a Hugging Face directory's parameters (auto: as stored)",
    )
    add_override_argument(parser, "change a value of the config that is written")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Upcycle; return an exit code.

    Raises:
        UserError: DENSE cannot be upcycled, a number is out of range, or OUT exists.
    """
    import_jax()
    from moe_jax.interop.dense_model import open_dense
    from moe_jax.interop.upcycle import Upcycling, upcycle

    how = Upcycling(
        copies=args.experts,
        top_k=2 * args.granularity if args.top_k is None else args.top_k,
        granularity=args.granularity,
        every=args.every,
        noise=args.noise,
        seed=args.seed,
    )
    dense = open_dense(args.dense, args.step, args.dtype)
    with ByteProgress("upcycling") as report:
        config = upcycle(dense, args.out, how, args.overrides, report)
    model = config.model
    print(
        f"{args.out}: {model.moe.num_experts} experts of {model.moe.d_ff} in each of "
        f"{model.num_layers // how.every} layers, {model.moe.top_k} per token"
    )
    if how.changes:
        print(f"at first it does not compute what {args.dense} does: {'; '.join(how.changes)}")
    else:
        print(f"at first it computes what {args.dense} does")
    return exit_codes.OK
