"""`moe-jax train CONFIG`: train a model, resuming where an earlier run left off."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import add_config_arguments, add_job_arguments, job_flags, load
from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import dump_config
from moe_jax.workdir import CHECKPOINTS, CONFIG, METRICS, run_directory

if TYPE_CHECKING:
    from moe_jax.training.loop import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb, add its arguments and say what runs it."""
    parser.description = (
        "Train the model of CONFIG. Everything a run leaves behind is in its working directory: "
        f"the resolved config, {METRICS}, {CHECKPOINTS}/. A run goes on under any mesh, sharding, "
        "pipeline and number of processes; its data, seed, train.global_batch and the shapes of "
        "its arrays must stay."
    )
    add_config_arguments(parser)
    parser.add_argument("--workdir", help="directory of the run (default: runs/NAME of the config)")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|none|STEP",
        help="go on from the newest good checkpoint if there is one (auto, the default), insist "
        "on a fresh start (none), or go on from STEP, setting later checkpoints aside",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="DIR",
        help="start from the weights of a Hugging Face directory, or of a working directory, with "
        "a fresh optimiser at step 0; the model must be CONFIG's. Not used when a run is resumed",
    )
    add_job_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; return an exit code.

    Raises:
        UserError: the config, the data, a checkpoint or the job's description is wrong.
    """
    config = load(args)
    workdir = run_directory(args.workdir, config.name)
    import_jax()
    import jax

    from moe_jax.mesh.distributed import start_distributed
    from moe_jax.mesh.platform import prepare_devices
    from moe_jax.session import make_session
    from moe_jax.training.loop import NonFiniteError, train

    job = start_distributed(job_flags(args))
    platform = prepare_devices(config, job.num_processes)
    session = make_session(config, platform)
    if jax.process_index() == 0:
        print(f"# {workdir / CONFIG}, the resolved configuration:\n{dump_config(config)}")
    try:
        outcome = train(session, workdir, args.resume, args.init_from)
    except NonFiniteError as error:
        print(f"moe-jax train: {error}", file=sys.stderr)
        return exit_codes.DIVERGED
    if jax.process_index() == 0:
        print(summary(outcome, workdir))
    return exit_codes.PREEMPTED if outcome.preempted else exit_codes.OK


def summary(outcome: "Outcome", workdir: Path) -> str:
    """Return the line that ends a run."""
    parts = [f"stopped after step {outcome.step}"]
    if outcome.loss is not None:
        parts.append(f"loss {outcome.loss:.4f}")
    if outcome.validation_loss is not None:
        parts.append(f"validation loss {outcome.validation_loss:.4f}")
    if outcome.preempted:
        parts.append("asked to end: the same command resumes")
    return f"{', '.join(parts)}; see {workdir}"
