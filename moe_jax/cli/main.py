"""The `moe-jax` command: parses the verb, runs it, turns its outcome into an exit code."""

import argparse
import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Sequence
from typing import Any

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.failures import explain

#: Verb -> its module, imported only if the verb is asked for, and what it does in a line.
VERBS = {
    "train": ("moe_jax.cli.train", "train a model"),
    "generate": ("moe_jax.cli.generate", "continue a text with a model"),
    "eval": ("moe_jax.cli.eval", "perplexity of a model on texts"),
    "serve": ("moe_jax.cli.serve", "answer HTTP requests as OpenAI's API does"),
    "convert": ("moe_jax.cli.convert", "import and export Hugging Face models"),
    "upcycle": ("moe_jax.cli.upcycle", "make a Mixture of Experts of a dense model"),
    "inspect": ("moe_jax.cli.inspect.verb", "say what a checkpoint holds"),
    "plan": (
        "moe_jax.cli.plan.verb",
        "say what a config needs on a cluster, and how fast it is there",
    ),
    "claims": ("moe_jax.cli.claims", "check the paper's claims"),
    "doctor": ("moe_jax.cli.doctor.verb", "say what is installed and what works here"),
    "bench": ("moe_jax.cli.bench.verb", "measure the hardware at hand"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `moe-jax` and return its exit code; `exit_codes.py` says what each means.

    Args:
        argv: the words after `moe-jax`; None takes the command line's.

    Raises:
        Exception: any that a verb raises, if `--traceback` asks for it.
        SystemExit: from argparse, for `--help` and for words that it does not know.
    """
    args = _parser().parse_args(argv)
    _start_logging()
    try:
        code = args.run(args)
        # Here, not at Python's end: what cannot be written is told like everything else.
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"moe-jax {args.verb}: interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except Exception as error:
        if args.traceback:
            raise
        return explain(error, args.verb)


def _start_logging() -> None:
    root = logging.getLogger()
    # absl, when orbax is imported, has given it a handler in another format, which would stay.
    for handler in [h for h in root.handlers if type(h) is logging.StreamHandler]:
        root.removeHandler(handler)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


class _Version(argparse.Action):
    """Prints the version, which is looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("moe-jax", importlib.metadata.version("moe-jax"))
        parser.exit()


class _VerbParser(argparse.ArgumentParser):
    """Parser of one verb, whose module is imported once there is something to parse."""

    def __init__(self, *args: Any, module: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] -- typeshed has overloads
        if self._module is not None:
            importlib.import_module(self._module).add_arguments(self)
            self._module = None
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-jax",
        description="Train and run Mixture-of-Experts transformers with one expert per device.",
        epilog=exit_codes.TABLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print it and end")
    parser.add_argument(
        "--traceback", action="store_true", help="show where a user error was raised"
    )
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=_VerbParser
    )
    for verb, (module, meaning) in VERBS.items():
        verbs.add_parser(verb, module=module, help=meaning)
    return parser


if __name__ == "__main__":
    sys.exit(main())
