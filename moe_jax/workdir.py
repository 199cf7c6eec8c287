"""The names of what lies in a working directory.

A run, a conversion and an upcycled model leave the same kind of directory behind:

    config.toml       the resolved config
    checkpoints/      see `moe_jax.checkpoint`
    set-aside/        checkpoints that a run left behind when it went back to an earlier one
    tokenizer/        files of an imported model's tokenizer, if it has one
    metrics.jsonl     one record a step, of a run
    tensorboard/      the same for TensorBoard, if `metrics.writers` asks for it
    wandb_id.txt      which run of Weights & Biases it is, likewise
    profile/          traces of `train.profile_steps`

What the files hold is the business of those who write them.
"""

from pathlib import Path

from moe_jax.errors import UserError

CONFIG = "config.toml"
CHECKPOINTS = "checkpoints"
SET_ASIDE = "set-aside"
TOKENIZER = "tokenizer"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_id.txt"
PROFILE = "profile"


def run_directory(asked: str | Path | None, name: str) -> Path:
    """Return the working directory of a run; it need not be there yet.

    Args:
        asked: what the user gave; None for runs/NAME.
        name: of the config.

    Raises:
        UserError: an empty path, or one that is a file or leads through one.
    """
    if asked == "":
        raise UserError("workdir is an empty path: give a directory, or . for here")
    workdir = Path("runs", name) if asked is None else Path(asked)
    there = next((p for p in (workdir, *workdir.parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        where = "is a file" if there == workdir else f"leads through {there}, a file"
        raise UserError(f"workdir {workdir} {where}: give a directory, new or of this run")
    return workdir
