"""What a checkpoint says about its run, and whether another run may go on from it.

It holds whole arrays, the config and the data position as (seed, step), nothing of processes or
devices: any layout may go on from it. Which keys may change is `changes.py`.
"""

import importlib.metadata
import logging
from typing import Any

from moe_jax.checkpoint import CheckpointError, Checkpoints, Restored
from moe_jax.checkpoint.restoring import Step
from moe_jax.config import Config, dump_config, parse_config
from moe_jax.data import Loader, require_same_data
from moe_jax.errors import UserError
from moe_jax.interop.open import ORIGIN
from moe_jax.training.changes import changes
from moe_jax.training.state import TrainState

logger = logging.getLogger(__name__)

_PACKAGES = ("moe-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def run_info(
    config: Config, loader: Loader, origin: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what is stored beside the arrays: nothing that depends on processes or devices.

    Args:
        config: of the run.
        loader: its training data.
        origin: what is known of the Hugging Face directory that the weights came from, if any.
    """
    info = {
        "config": dump_config(config),
        "data": loader.fingerprint(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return info if origin is None else info | {ORIGIN: origin}


def restore_run(
    checkpoints: Checkpoints,
    resume: str,
    abstract: TrainState,
    config: Config,
    loader: Loader,
) -> Restored | None:
    """Restore what `--resume` asks for, or return None for a fresh start.

    Args:
        checkpoints: of the run's working directory.
        resume: "auto" (newest good checkpoint, if any), "none", or a step.
        abstract: the state to restore, on the mesh at hand.
        config: the run that wants to go on.
        loader: its training data.

    Raises:
        CheckpointError: nothing at that step, or checkpoints that "none" would orphan.
        UserError: the run would read other data, or other rows of it, or is beyond its last step.
    """
    if resume == "none":
        if steps := checkpoints.steps():
            raise CheckpointError(
                f"{checkpoints.root} holds checkpoints of steps {steps}, and --resume none would "
                "start over beside them: choose another --workdir, or --resume auto to go on"
            )
        return None
    step = "latest" if resume == "auto" else _step(resume)
    try:
        restored = checkpoints.restore(abstract, step=step)
    except CheckpointError as error:
        _refuse_bare_weights(checkpoints, step, error)
        raise
    if restored is None:
        return None
    for rejected in restored.rejected:
        logger.warning("not a usable checkpoint: %s: %s", rejected.path, rejected.reason)
    _require_same_run(restored.info, config, loader)
    if restored.step > config.train.steps:
        raise UserError(
            f"the checkpoint is of step {restored.step}, beyond train.steps "
            f"({config.train.steps}): set train.steps to at least as many, or go back with "
            "--resume and an earlier step"
        )
    if resume != "auto":
        # Last: a refused start must not move anything.
        checkpoints.set_aside_after(restored.step)
    return restored


def _refuse_bare_weights(checkpoints: Checkpoints, step: Step, error: CheckpointError) -> None:
    """Say what to do with imported weights, which are no run that could go on."""
    steps = checkpoints.steps()
    if not steps or step not in ("latest", *steps) or "data" in checkpoints.info(step):
        return
    raise CheckpointError(
        f"{checkpoints.root} holds imported weights, not a run that could go on: train in another "
        f"--workdir with --init-from {checkpoints.root.parent}"
    ) from error


def _step(resume: str) -> int:
    if not resume.isdigit():
        raise UserError(f"--resume {resume}: give auto, none, or the step of a checkpoint")
    return int(resume)


def _require_same_run(info: dict[str, Any], config: Config, loader: Loader) -> None:
    """Refuse another batch size: the data position, (seed, step), would mean other rows."""
    require_same_data(info["data"], loader.fingerprint())
    saved = parse_config(info["config"])
    if saved.train.global_batch != config.train.global_batch:
        raise UserError(
            f"the checkpoint was trained with train.global_batch={saved.train.global_batch} and "
            f"this run has {config.train.global_batch}: its data position would mean other rows. "
            "Keep the batch size, or start a new run"
        )


def describe(restored: Restored | None, config: Config, initial: str = "") -> list[str]:
    """Return the lines that say where training starts, and what has changed since.

    Args:
        restored: the checkpoint; None for a fresh start.
        config: of the run.
        initial: what the run starts from if it is not resumed; empty for random weights.
    """
    if restored is None:
        return [f"starting from {initial or 'scratch'}"]
    skipped = f", passing over {len(restored.rejected)} unusable" if restored.rejected else ""
    lines = [f"resuming from the checkpoint of step {restored.step}{skipped}"]
    since = changes(parse_config(restored.info["config"]), config)
    if since.layout:
        lines.append(f"under another layout, which changes no loss: {'; '.join(since.layout)}")
    if since.training:
        lines.append(f"from here on it trains differently: {'; '.join(since.training)}")
    return lines
