"""The training loop: batches in, checkpoints and metrics out, and a clean end in every case.

While a step runs, the next batch is read and placed. The loop then waits for the step's metrics
before it dispatches the next one: on GPUs dispatching waits anyway (the host decides whether
overflow rounds run), and a step's time is its own.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from moe_jax.checkpoint import Checkpoints, Restored, watch_preemption
from moe_jax.config import Config, write_config
from moe_jax.data import Loader, batch_indices, make_loaders
from moe_jax.errors import UserError
from moe_jax.interop.open import ORIGIN
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.session import Session
from moe_jax.training.auto_remat import left_open, resolve_remat
from moe_jax.training.initial import keep_tokenizer, read_initial
from moe_jax.training.reporting.profiler import Profiler
from moe_jax.training.reporting.progress import Progress
from moe_jax.training.reporting.reporter import Reporter
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.reporting.writers import MetricsWriters
from moe_jax.training.resume import describe, restore_run, run_info
from moe_jax.training.state import TrainState, abstract_state, init_state
from moe_jax.training.step import Steps, make_steps
from moe_jax.training.validate import Validation
from moe_jax.workdir import CHECKPOINTS, PROFILE

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Too many steps in a row were not finite."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    loss: float | None
    validation_loss: float | None
    preempted: bool
    #: What it ran with: nothing left to choose by compiling.
    config: Config


def train(session: Session, workdir: Path, resume: str, init_from: Path | None = None) -> Outcome:
    """Train until the config's last step, or until the scheduler asks the job to end.

    Args:
        session: the run, assembled.
        workdir: receives checkpoints/, metrics.jsonl and profile/.
        resume: "auto", "none" or a step; see `restore_run`.
        init_from: whose weights a fresh run starts from (see `initial.py`); None for random ones.

    Raises:
        NonFiniteError: after `train.max_skipped` non-finite steps in a row.
        UserError: the data cannot be read, or the checkpoint is of another run.
    """
    config, options = session.config, compiler_options(session.platform)
    loaders = make_loaders(config, session.batch_sharding())
    require_same_text_everywhere(loaders.train)
    checkpoint_options = config.checkpoint.model_dump()
    with (
        Checkpoints(workdir / CHECKPOINTS, **checkpoint_options) as checkpoints,
        Progress(config.train.steps) as progress,
        MetricsWriters(workdir, config, is_main=jax.process_index() == 0) as writers,
        watch_preemption() as preempted,
    ):
        steps = make_steps(session.skeleton, session.parallel)
        abstract = abstract_state(steps.skeleton, steps.optimizer, session.mesh)
        restored = restore_run(checkpoints, resume, abstract, config, loaders.train)
        chosen = left_open(config)
        resolved = resolve_remat(session, restored)
        session, config = resolved.session, resolved.session.config
        steps = make_steps(session.skeleton, session.parallel)
        start = _start(session, steps, restored, init_from)
        for line in (*start.lines, *resolved.lines):
            progress.note(line)
        if jax.process_index() == 0:
            write_config(config, workdir)
            if warning := keep_tokenizer(start.files, config, workdir):
                progress.note(warning)
        info = run_info(config, loaders.train, start.origin) | chosen
        step = resolved.step or _CompilesFirst(steps.jit_train(options), progress)
        run = _Run(session, step, loaders.train, checkpoints, progress, writers, workdir, info)
        if loaders.validation is not None and config.train.validation_every:
            evaluate = steps.jit_evaluate(options)
            batches = config.train.validation_batches
            run.validation = Validation(evaluate, loaders.validation, batches)
        return run(start.state, preempted)


@dataclass(frozen=True)
class _Start:
    """Where a run begins, and what is known of where its weights came from."""

    state: TrainState
    lines: list[str]
    origin: dict[str, Any] | None
    files: list[Path]


def _start(
    session: Session, steps: Steps, restored: Restored | None, init_from: Path | None
) -> _Start:
    config = session.config
    if restored is not None:
        lines = describe(restored, config)
        if init_from is not None:
            lines.append(f"--init-from {init_from} is not used: the run goes on where it was")
        return _Start(restored.state, lines, restored.info.get(ORIGIN), [])
    if init_from is None:
        state = init_state(steps.skeleton, steps.optimizer, session.mesh)
        return _Start(state, describe(None, config), None, [])
    initial = read_initial(init_from, config, session.mesh)
    state = init_state(steps.skeleton, steps.optimizer, session.mesh, initial.weights)
    return _Start(state, describe(None, config, initial.text), initial.origin, initial.files)


class _CompilesFirst:
    """A training step that says how long its first call took to compile."""

    def __init__(self, step: Any, progress: Progress):
        self.step = step
        self.progress = progress
        self.is_compiled = False

    def __call__(self, state: TrainState, batch: Any) -> Any:
        began = time.perf_counter()
        result = self.step(state, batch)
        if not self.is_compiled:
            took = time.perf_counter() - began
            self.progress.note(f"compiled the training step in {took:.1f} s")
            self.is_compiled = True
        return result


class _Run:
    """One pass of the loop; holds what its parts share."""

    def __init__(
        self,
        session: Session,
        step_function: Callable[[TrainState, Any], Any],
        loader: Loader,
        checkpoints: Checkpoints,
        progress: Progress,
        writers: MetricsWriters,
        workdir: Path,
        info: dict[str, Any],
    ):
        self.config: Config = session.config
        self.loader = loader
        self.checkpoints = checkpoints
        self.progress = progress
        self.writers = writers
        self.validation: Validation | None = None
        self.reporter = Reporter(session.config, session.mesh)
        profiled = session.config.train.profile_steps
        self.profiler = Profiler(workdir / PROFILE, profiled, progress.note)
        self.step_function = step_function
        self.info = info
        self.last_loss: float | None = None
        self.last_validation: float | None = None
        self.skipped_in_a_row = 0

    def __call__(self, state: TrainState, preempted: Any) -> Outcome:
        step = start = int(state.step)
        self.skipped_in_a_row = int(state.skipped_in_a_row)
        stop = False
        batches = self.loader.iterate(start)
        self.reporter.start(start, int(state.skipped))
        try:
            _, batch = next(batches)
            while step < self.config.train.steps and not stop:
                self.profiler.before(step)
                state, metrics = self._dispatch(state, batch, first=step == start)
                _, batch = next(batches)
                self.profiler.after(step, metrics)
                self._consume(step, metrics)
                step += 1
                stop = preempted(step)
                self._at_boundary(step, state, stop)
        finally:
            self.profiler.close()
            batches.close()
        self._save(step, state)
        unfinished = stop and step < self.config.train.steps
        return Outcome(step, self.last_loss, self.last_validation, unfinished, self.config)

    def _dispatch(self, state: TrainState, batch: Any, first: bool) -> Any:
        result = self.step_function(state, batch)
        if first:
            self.reporter.restart_clock()
        return result

    def _at_boundary(self, step: int, state: TrainState, stop: bool) -> None:
        """Validate and save where they are due; neither is charged to a step."""
        every, last = self.config.train.validation_every, self.config.train.steps
        if self.validation is not None and (step % every == 0 or step == last):
            self.last_validation = self.validation(state)
            self.progress.note(f"step {step}: validation loss {self.last_validation:.4f} nats")
            self.writers.write(step, {"validation_loss": self.last_validation})
            self.reporter.restart_clock()
        if self.checkpoints.due(step) and not stop:
            self._save(step, state)
            self.reporter.restart_clock()

    def _consume(self, step: int, on_device: StepMetrics) -> None:
        """Wait for a step's metrics, report them, and stop a run that has diverged."""
        metrics = jax.device_get(on_device)
        report = self.reporter(step + 1, metrics)
        self.last_loss = report.loss
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if metrics.skipped else 0
        last = step + 1 == self.config.train.steps
        if (step + 1) % self.config.metrics.log_every == 0 or last or metrics.skipped:
            self.progress.report(report)
        self.writers.write(step + 1, report.to_record())
        if self.skipped_in_a_row >= self.config.train.max_skipped:
            raise NonFiniteError(self._diverged(step))

    def _save(self, step: int, state: TrainState) -> None:
        if self.checkpoints.last_step == step:
            return
        self.checkpoints.save(step, state, self.info)
        self.progress.note(f"step {step}: saving a checkpoint to {self.checkpoints.root}")

    def _diverged(self, step: int) -> str:
        rows = batch_indices(step, self.config).ravel()
        return (
            f"loss or gradient norm was not finite in {self.skipped_in_a_row} steps in a row "
            f"(train.max_skipped = {self.config.train.max_skipped}), the last of them step {step} "
            f"with sequences {rows[0]} to {rows[-1]} of seed {self.config.seed}: lower "
            "optimizer.learning_rate, or resume from an earlier checkpoint with other data"
        )


def require_same_text_everywhere(loader: Loader) -> None:
    """Refuse processes that would train on different text (say, other Python versions)."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(repr(sorted(loader.fingerprint().items())).encode(), np.uint8)
    length = multihost_utils.process_allgather(np.int32(digest.size))
    same = bool((length == digest.size).all())
    same = same and bool((multihost_utils.process_allgather(digest) == digest).all())
    if not same:
        raise UserError(
            "processes read different training text: give all hosts the same files, or for "
            "data.source = 'stdlib' the same Python"
        )
