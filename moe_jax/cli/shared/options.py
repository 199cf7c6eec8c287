"""Options that several verbs share, and what they mean.

What a verb does with them is in the verb's own file.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from moe_jax.cli.shared.quiet import import_jax
from moe_jax.config import Config, check, load_config
from moe_jax.config.schema import DType
from moe_jax.errors import UserError
from moe_jax.mesh.jobs import JobFlags

if TYPE_CHECKING:
    from moe_jax.inference.language_model import LanguageModel

#: How the Hugging Face hub names a model: OWNER/NAME.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add CONFIG (not `required`: optional) and the repeatable `--set KEY=VALUE`."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs=None if required else "?",
        help="TOML file of the run, such as configs/quickstart.toml",
    )
    add_override_argument(parser, "change a value of the config")


def add_override_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the repeatable `--set KEY=VALUE`; `what` it does begins its help."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help=f"{what}, such as model.moe.top_k=1; may be repeated",
    )


def load(args: argparse.Namespace) -> Config:
    """Read and check the config that `add_config_arguments` asked for.

    Raises:
        ConfigError: the file or an override is wrong, or values do not go together.
    """
    config = load_config(args.config, args.overrides)
    check(config)
    return config


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, `--set`, `--dtype` and `--step`, for `load_model`."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="Hugging Face directory, or working directory of a run or a conversion",
    )
    add_override_argument(parser, "change a value of the config")
    parser.add_argument(
        "--dtype", choices=get_args(DType), help="of weights and computation (default: as stored)"
    )
    parser.add_argument(
        "--step", type=int, help="of a working directory: checkpoint to use (default: the newest)"
    )


def load_model(args: argparse.Namespace, flags: JobFlags) -> "LanguageModel":
    """Connect to the job, then load what `add_model_arguments` asked for.

    Args:
        args: the command line.
        flags: what it says about the job.

    Raises:
        UserError: see `moe_jax.load`.
    """
    # Before anything is started: most mistakes are here.
    refuse_hub_name(args.model)
    if not args.model.is_dir():
        raise UserError(
            f"{args.model} is not a directory: give the --workdir of a training run, what "
            "moe-jax convert made, or a Hugging Face directory"
        )
    import_jax()
    from moe_jax.inference.loading import load as load_directory
    from moe_jax.mesh.distributed import start_distributed

    job = start_distributed(flags)
    return load_directory(
        args.model,
        overrides=args.overrides,
        dtype=args.dtype,
        step=args.step,
        num_processes=job.num_processes,
    )


def refuse_hub_name(path: Path) -> None:
    """Raise UserError for what names a model of the hub, as far as one can see, and no path."""
    if _HUB_NAME.fullmatch(str(path)) and not (path.exists() or path.parent.exists()):
        local = Path("models", path.name)
        raise UserError(
            f"{path} is not a directory here. If it is a model of the Hugging Face hub, fetch it "
            f"with `hf download {path} --local-dir {local}` and give {local}"
        )


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that tell a process its place in a job."""
    group = parser.add_argument_group(
        "several processes",
        "Read from Slurm, Open MPI or Kubernetes where one of them starts the processes; "
        "otherwise give each process all three (or MOE_JAX_COORDINATOR, MOE_JAX_NUM_PROCESSES "
        "and MOE_JAX_PROCESS_ID).",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", type=int, metavar="N", help="processes of the job")
    group.add_argument("--process-id", type=int, metavar="I", help="this process, from 0")


def job_flags(args: argparse.Namespace) -> JobFlags:
    """Return what the command line says about the job."""
    return JobFlags(args.coordinator, args.num_processes, args.process_id)


def share(text: str) -> float:
    """Parse a share of 0 to 1, as the type of an argument."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1, such as 0.9")
    return value


def positive(text: str) -> int:
    """Parse a whole number of 1 or more, as the type of an argument."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value
