"""`moe-jax bench decode MODEL`: tokens per second of generation. Measuring is `bench/decode/`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import require_writable, write_json
from moe_jax.cli.shared.options import add_model_arguments, load_model
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import load_config
from moe_jax.errors import UserError
from moe_jax.mesh.jobs import NO_FLAGS

if TYPE_CHECKING:
    from moe_jax.inference.language_model import LanguageModel


def add_decode(suites: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the suite `decode` and its arguments."""
    parser = suites.add_parser(
        "decode",
        help="tokens per second of generation, beside a full forward pass and transformers",
        description=(
            "Time greedy generation with MODEL on random tokens, by batch size: with the cache, "
            "with a full forward pass per token, and with transformers on the same cores. MODEL "
            "may also be a TOML file of a config: random weights of that size."
        ),
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 8, 32],
        metavar="N",
        help="texts at a time, one or several sizes (1 8 32)",
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=128, metavar="N", help="of each text (%(default)s)"
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens of a text that the cache has room for (what the texts need)",
    )
    parser.add_argument(
        "--steps", type=int, default=8, metavar="N", help="tokens timed at a time (%(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="how often, 2 or more (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.set_defaults(run=run_decode)


def run_decode(args: argparse.Namespace) -> int:
    """Measure, print, write `--json`; return an exit code.

    Raises:
        UserError: the model cannot be loaded, or a number is out of range.
    """
    require_writable(args.json)
    if min(*args.batch, args.prompt_tokens, args.steps) < 1:
        raise UserError("--batch, --prompt-tokens and --steps must be 1 or more")
    if args.repeats < 2:
        raise UserError(f"--repeats ({args.repeats}) must be 2 or more: the spread needs them")
    import_jax()
    from moe_jax.bench.decode.ways import Work, measure_decode
    from moe_jax.cli.bench.tables import console, decode_line, decode_table

    work = Work(args.prompt_tokens, args.steps, args.repeats, args.context)
    model = _model(args)
    out = console()
    result = measure_decode(
        model,
        args.model,
        args.batch,
        work,
        report=lambda time: out.print(f"  {decode_line(time)}"),
    )
    out.print(decode_table(result))
    for way, reason in result.skipped.items():
        out.print(f"{way} skipped: {reason}")
    if args.json is not None:
        write_json(args.json, result.to_json())
    return exit_codes.OK


def _model(args: argparse.Namespace) -> "LanguageModel":
    from moe_jax.bench.decode.fresh_model import fresh_model

    if args.model.suffix != ".toml":
        return load_model(args, NO_FLAGS)
    if args.step is not None:
        raise UserError(f"{args.model} is a config, without checkpoints: leave --step out")
    kept = (
        [] if args.dtype is None else [f"precision.{n}={args.dtype}" for n in ("params", "compute")]
    )
    return fresh_model(load_config(args.model, [*kept, *args.overrides]))
