"""`moe_jax.train`: a run from Python, and what it leaves in hand.

The loop is `loop.py`; the command, which prints as it goes, is `cli/train.py`.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from moe_jax.config import Config, check, load_config
from moe_jax.errors import UserError
from moe_jax.inference.loading import load
from moe_jax.mesh.build import build_mesh, mesh_shape
from moe_jax.mesh.distributed import start_distributed
from moe_jax.mesh.platform import prepare_devices, running_devices
from moe_jax.session import Session, make_session
from moe_jax.training import loop
from moe_jax.training.loop import Outcome
from moe_jax.training.reporting.history import read_history
from moe_jax.workdir import run_directory

if TYPE_CHECKING:
    from moe_jax.inference.language_model import LanguageModel


@dataclass(frozen=True)
class Run:
    """A run that has ended, and where it left what it made.

    Attributes:
        config: what it was trained with, resolved.
        workdir: holds its checkpoints, metrics and config.
        outcome: how it ended: step, loss, validation loss, and whether it was asked to end.
    """

    config: Config
    workdir: Path
    outcome: Outcome = field(repr=False)

    @cached_property
    def history(self) -> dict[str, np.ndarray]:
        """Metrics by name, one value for each step of `history["step"]`.

        Names are those of metrics.jsonl: "loss", "grad_norm", "learning_rate", "seconds",
        "tokens_per_second", "mfu", "moe.load_imbalance", ... (`training/reporting/history.py`).
        What the run did before it was resumed is part of it.
        """
        return read_history(self.workdir)

    def model(self) -> "LanguageModel":
        """Load the newest checkpoint as a model to be asked; see `moe_jax.load`."""
        return load(self.workdir, num_processes=jax.process_count())

    def __repr__(self) -> str:
        last, outcome = self.config.train.steps, self.outcome
        how = (
            f"asked to end after step {outcome.step} of {last}"
            if outcome.preempted
            else (f"finished at step {outcome.step}")
        )
        for name, loss in (("loss", outcome.loss), ("validation", outcome.validation_loss)):
            how += "" if loss is None else f", {name} {loss:.4f}"
        return f"Run({self.config.name!r} in {str(self.workdir)!r}: {how})"


def train(
    config: Config | str | Path,
    workdir: str | Path | None = None,
    *,
    resume: str | int = "auto",
    init_from: str | Path | None = None,
) -> Run:
    """Train a model, resuming where an earlier run in the same directory left off.

    Chooses JAX's devices, so call it before anything else uses JAX; afterwards, other meshes of
    at most as many devices will do.

        import moe_jax

        config = moe_jax.load_config("configs/quickstart.toml", ["train.steps=20"])
        run = moe_jax.train(config, workdir="runs/first")
        print(run, run.history["loss"][-1])
        print(run.model().generate("def "))

    Args:
        config: the run, or the path of its file.
        workdir: receives checkpoints, metrics and the resolved config; None for runs/NAME.
        resume: "auto" goes on from the newest good checkpoint if there is one, "none" insists on
            a fresh start, a step goes on from there and sets later checkpoints aside.
        init_from: directory of the weights that a fresh run starts from; None for random ones.

    Returns:
        The run, ended: at its last step, or because the scheduler asked for it.

    Raises:
        UserError: the config, the data or a checkpoint is wrong, or JAX has started with too few
            devices; no run was changed.
        NonFiniteError: after `train.max_skipped` steps in a row without a finite loss.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    check(config)
    place = run_directory(workdir, config.name)
    session = _session(config)
    source = None if init_from is None else Path(init_from)
    outcome = loop.train(session, place, str(resume), source)
    return Run(outcome.config, place, outcome)


def _session(config: Config) -> Session:
    """Prepare devices, or take the first of those that JAX runs on already."""
    size, running = math.prod(mesh_shape(config.mesh)), running_devices()
    if not running:
        job = start_distributed()
        return make_session(config, prepare_devices(config, job.num_processes))
    if running < size:
        raise UserError(
            f"JAX has already started with {running} {jax.default_backend()} devices, and the mesh "
            f"of {config.name} needs {size}: call moe_jax.train before anything else that uses JAX "
            "(in a notebook: restart the kernel first), or take a mesh of at most as many, such "
            f'as load_config(path, ["mesh.expert={running}"])'
        )
    suits = config.runtime.platform in ("auto", jax.default_backend())
    if running > size and suits and jax.process_count() == 1:
        mesh = build_mesh(config.mesh, jax.devices()[:size])
        return make_session(config, jax.default_backend(), mesh=mesh)
    return make_session(config, prepare_devices(config, jax.process_count()))
