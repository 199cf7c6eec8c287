"""`moe-jax bench overlap RUN`: what a profile says of a step, beside what a plan compiled.

Reading the profile is `training/reporting/trace/`.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.files import require_writable, write_json
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import load_config
from moe_jax.errors import UserError
from moe_jax.workdir import CONFIG

if TYPE_CHECKING:
    from moe_jax.planner.report.figures import Times
    from moe_jax.training.reporting.trace.measured import Profile


def add_overlap(suites: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the suite `overlap` and its arguments."""
    parser = suites.add_parser(
        "overlap",
        help="where a profiled step's time went, and what its communication hid behind",
        description=(
            "Read the profile that train.profile_steps left in a run's directory: time by kind of "
            "kernel, busy, hidden and exposed time of each kind of collective, and how much slower "
            "products run meanwhile."
        ),
    )
    parser.add_argument(
        "directory", type=Path, metavar="RUN", help="a run's directory, or one that holds a profile"
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="of the profile (what the run's config says, or 1)",
    )
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="set beside it what moe-jax plan CONFIG --mode train --json FILE wrote",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.set_defaults(run=run_overlap)


def run_overlap(args: argparse.Namespace) -> int:
    """Read, print, write `--json`; return an exit code.

    Raises:
        UserError: there is no profile, or the plan is none of a training step.
    """
    require_writable(args.json)
    import_jax()
    from moe_jax.bench.programs.planned import read_planned
    from moe_jax.cli.bench.overlap_tables import collective_times_table, kinds_table
    from moe_jax.cli.bench.tables import console
    from moe_jax.training.reporting.trace.events import newest_profile, read_events
    from moe_jax.training.reporting.trace.measured import measure_profile

    planned = None if args.plan is None else read_planned(args.plan)
    steps = _steps(args)
    file = newest_profile(args.directory)
    profile = measure_profile(read_events(file))
    # The profile is a file: no device is needed.
    out = console(process=0)
    out.print(f"{file}: {profile.devices} devices, {steps} steps")
    out.print(kinds_table(profile, steps, planned))
    if profile.collectives:
        out.print(collective_times_table(profile, steps))
    if profile.slowdown is not None:
        out.print(f"products beside collectives take {profile.slowdown:.2f} x their time alone")
    if args.json is not None:
        write_json(args.json, _json(profile, steps, planned))
    return exit_codes.OK


def _steps(args: argparse.Namespace) -> int:
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps ({args.steps}) must be 1 or more")
    config = args.directory / CONFIG
    if args.steps is not None or not config.is_file():
        return args.steps or 1
    profiled = load_config(config).train.profile_steps
    return profiled[1] - profiled[0] + 1 if profiled else 1


def _json(profile: "Profile", steps: int, planned: "Times | None") -> dict:
    measured = asdict(profile) | {"kind": "measured", "steps": steps}
    return {"measured": measured, "compiled": None if planned is None else asdict(planned)}
