"""The `moe-jax` command: parses the verb, runs it, turns its outcome into an exit code."""

import argparse
import logging
import sys
from collections.abc import Sequence

from moe_jax.cli import claims, convert, eval, generate, serve, train, upcycle
from moe_jax.cli.bench import verb as bench
from moe_jax.cli.doctor import verb as doctor
from moe_jax.cli.inspect import verb as inspect
from moe_jax.cli.plan import verb as plan
from moe_jax.cli.shared import exit_codes

_VERBS = (train, generate, eval, serve, convert, upcycle, inspect, plan, claims, doctor, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `moe-jax` with `argv` (default: the command line's) and return the exit code."""
    args = _parser().parse_args(argv)
    _start_logging()
    try:
        return args.run(args)
    except ValueError as error:
        if args.traceback:
            raise
        print(f"moe-jax {args.verb}: {error}", file=sys.stderr)
        return exit_codes.USER_ERROR
    except KeyboardInterrupt:
        print(f"moe-jax {args.verb}: interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED


def _start_logging() -> None:
    root = logging.getLogger()
    # absl, when orbax is imported, has given it a handler in another format, which would stay.
    for handler in [h for h in root.handlers if type(h) is logging.StreamHandler]:
        root.removeHandler(handler)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-jax",
        description="Train and run Mixture-of-Experts transformers with one expert per device.",
        epilog=exit_codes.TABLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where a user error was raised"
    )
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
