"""`moe-jax eval MODEL --data FILE`: how well a model predicts texts."""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, TextColumn

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import require_writable, write_json
from moe_jax.cli.shared.options import (
    add_job_arguments,
    add_model_arguments,
    job_flags,
    load_model,
)
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.cli.shared.tables import headed_table

if TYPE_CHECKING:
    from moe_jax.inference.evaluate import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Print perplexity per token and bits per byte of a model on documents (.txt, .jsonl, "
        ".parquet), each read in overlapping windows."
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, action="append", metavar="FILE", help="file or directory of texts"
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="field of .jsonl, column of .parquet"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens seen at once (data.sequence_length)"
    )
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens from window to window (half the context)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    add_job_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the figures; return an exit code.

    Raises:
        UserError: the model or the texts cannot be read, or a length is out of range.
    """
    require_writable(args.json)
    import_jax()
    import jax

    from moe_jax.data.files import list_files, read_file
    from moe_jax.inference.evaluate import evaluate

    files = list_files(args.data, "--data")
    model = load_model(args, job_flags(args))
    context = args.context or model.config.data.sequence_length
    stride = args.stride or max(1, context // 2)

    def texts() -> Iterator[str]:
        for file in files:
            yield from (text for _, text in read_file(file, args.text_field))

    started = time.monotonic()
    is_main = jax.process_index() == 0
    with _progress(is_main) as progress:
        task = progress.add_task("", shown="")
        evaluation = evaluate(
            model,
            texts(),
            context=context,
            stride=stride,
            report=lambda so_far: progress.update(task, shown=_line(so_far)),
        )
    seconds = time.monotonic() - started
    if is_main:
        print_result(evaluation, context, stride, seconds)
        if args.json is not None:
            write_json(args.json, as_json(evaluation, context, stride))
    return exit_codes.OK


def print_result(evaluation: "Evaluation", context: int, stride: int, seconds: float) -> None:
    """Print one table."""
    title = f"windows of {context} tokens, {stride} apart"
    table = headed_table(title, "measured", "value")
    table.add_row("perplexity per token", f"{evaluation.perplexity:.4f}")
    table.add_row("nats per token", f"{evaluation.nats_per_token:.4f}")
    table.add_row("bits per byte", f"{evaluation.bits_per_byte:.4f}")
    table.add_row("tokens predicted", f"{evaluation.tokens:,}")
    table.add_row("texts", f"{evaluation.texts:,}")
    table.add_row("tokens predicted per second", f"{evaluation.tokens / seconds:.4g}")
    Console(markup=False, highlight=False).print(table)


def as_json(evaluation: "Evaluation", context: int, stride: int) -> dict[str, float]:
    """Return the sums and what follows from them."""
    derived = {
        "perplexity": evaluation.perplexity,
        "nats_per_token": evaluation.nats_per_token,
        "bits_per_byte": evaluation.bits_per_byte,
    }
    return asdict(evaluation) | derived | {"context": context, "stride": stride}


def _line(so_far: "Evaluation") -> str:
    return f"{so_far.tokens:,} tokens, perplexity {so_far.perplexity:.3f}"


def _progress(is_main: bool) -> Progress:
    """Return a line on stderr while it runs, where somebody watches."""
    shown = sys.stderr.isatty() and is_main
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.fields[shown]}"), console=console, transient=True, disable=not shown
    )
