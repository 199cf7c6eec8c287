"""`moe-jax doctor [CONFIG]`: what is installed, what is connected, what works here.

The tables about this machine are `machine.py`, those about a config `facts.py`.
"""

import argparse
import sys

from rich.console import Console

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import add_config_arguments, add_job_arguments, job_flags, load
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import Config, dump_config
from moe_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Print versions, devices and links, and what works here. With CONFIG: also its size, "
        "its parameters and their sharding, and whether it runs here; the exit code is then "
        "2 if `train` would refuse it."
    )
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--resolved",
        action="store_true",
        help="print the whole config as TOML, defaults and --set included, and nothing else",
    )
    add_job_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings on process 0; return an exit code.

    Raises:
        UserError: the config or the job's description is wrong.
    """
    for option, given in (("--set", args.overrides), ("--resolved", args.resolved)):
        if args.config is None and given:
            raise UserError(f"{option} is about a config: give the CONFIG too")
    config = None if args.config is None else load(args)
    if args.resolved and config is not None:
        print(dump_config(config), end="")
        return exit_codes.OK
    return _examine(args, config)


def _examine(args: argparse.Namespace, config: Config | None) -> int:
    import_jax()
    import jax

    from moe_jax.cli.doctor import facts, machine
    from moe_jax.mesh.distributed import start_distributed

    job = start_distributed(job_flags(args))
    verdict = machine.judge(config, job)
    devices = jax.devices()
    links = machine.links_table(verdict.session.topology if verdict.session else devices)
    tables = [machine.versions_table(), machine.devices_table(devices), links]
    tables.append(machine.works_table(job))
    if config is not None:
        tables += [facts.summary_table(config), facts.parameter_table(config)]
    console = Console(
        # A file has no width: wide enough for the parameter table.
        width=None if sys.stdout.isatty() else 200,
        quiet=jax.process_index() != 0,
        markup=False,
        highlight=False,
    )
    console.print(*tables, sep="\n")
    if config is None:
        return exit_codes.OK
    console.print(machine.verdict_line(verdict))
    return exit_codes.OK if verdict.session else exit_codes.USER_ERROR
