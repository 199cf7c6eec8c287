"""`moe-jax convert from-hf DIR OUT` and `to-hf CHECKPOINT DIR`: weights in and out.

What is converted, and how, is `interop/convert.py` and `interop/export.py`.
"""

import argparse
from pathlib import Path

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.byte_progress import ByteProgress
from moe_jax.cli.shared.options import add_override_argument, refuse_hub_name
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.interop.files.writer import parse_size

#: What `transformers` kept to for long; files of this size can be fetched in parallel.
SHARD_SIZE = "5GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Convert weights tensor by tensor: memory holds one tensor, not the model. The output "
        "appears at once when it is complete; one that exists is never overwritten."
    )
    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")
    _add_from_hf(ways)
    _add_to_hf(ways)


def _add_from_hf(ways: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = ways.add_parser(
        "from-hf",
        help="a Hugging Face directory to a working directory",
        description=(
            "Convert a Hugging Face directory (config.json, safetensors, tokenizer files) to a "
            "working directory that generate, eval, serve, inspect, train --init-from and to-hf "
            "take. Pickled weights and code in the directory are never read."
        ),
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="the Hugging Face directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="the working directory to make")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of parameters and computation (auto: bfloat16 if stored in that, else float32)",
    )
    add_override_argument(parser, "change a value of the config that is written")
    parser.set_defaults(run=run_from_hf)


def _add_to_hf(ways: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = ways.add_parser(
        "to-hf",
        help="a checkpoint to a Hugging Face directory",
        description=(
            "Convert a checkpoint to a Hugging Face directory that transformers loads as it is. "
            "Its files are compared with their digests first."
        ),
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="working directory of a run, its checkpoints/, or the directory of one step",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="the directory to make")
    parser.add_argument("--step", type=int, help="the checkpoint to use (default: newest good)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (auto: what they were imported in, otherwise what they are stored in)",
    )
    parser.add_argument(
        "--max-shard-size",
        default=SHARD_SIZE,
        metavar="SIZE",
        help=f"largest file of weights, such as 500MB (default: {SHARD_SIZE})",
    )
    parser.set_defaults(run=run_to_hf)


def run_from_hf(args: argparse.Namespace) -> int:
    """Import; return an exit code.

    Raises:
        UserError: the directory cannot be converted, or OUT exists.
    """
    refuse_hub_name(args.directory)
    import_jax()
    from moe_jax.interop.convert import from_hf

    with ByteProgress("importing") as report:
        from_hf(args.directory, args.out, args.overrides, args.dtype, report)
    print(f"imported {args.directory} to {args.out}: see moe-jax inspect {args.out}")
    return exit_codes.OK


def run_to_hf(args: argparse.Namespace) -> int:
    """Export; return an exit code.

    Raises:
        UserError: the checkpoint cannot be converted, or DIR exists.
    """
    most = parse_size(args.max_shard_size)
    import_jax()
    from moe_jax.interop.export import to_hf

    with ByteProgress("exporting") as report:
        to_hf(args.checkpoint, args.directory, args.step, args.dtype, most, report)
    print(f"exported {args.checkpoint} to {args.directory}")
    return exit_codes.OK
