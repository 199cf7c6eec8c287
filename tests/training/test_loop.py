"""The loop around a step: when it saves, validates, reports, and how it ends. No model here."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from support.report_cases import make_metrics
from support.training_cases import ONE_DEVICE, session_on_first_devices, small_config

from moe_jax.checkpoint import Restored
from moe_jax.config import dump_config
from moe_jax.training import loop
from moe_jax.training.loop import NonFiniteError, Outcome, _Run, _start
from moe_jax.training.state import TrainState

STEPS = 6


class Recorder:
    """Stands for everything that a run tells something to; keeps what it is told, in order."""

    def __init__(self, every: int = 0):
        self.events: list[tuple] = []
        self.last_step: int | None = None
        self.root = Path("checkpoints")
        self._every = every

    def save(self, step, state, info):
        assert int(state.step) == step, "what is saved is the state after that many steps"
        self.last_step = step
        self.events.append(("save", step))

    def due(self, step):
        return bool(self._every) and step % self._every == 0

    def note(self, text):
        self.events.append(("note", text))

    def report(self, report):
        self.events.append(("report", report.step))

    def write(self, step, record):
        self.events.append(("write", step, "validation_loss" in record))

    def of(self, kind: str) -> list:
        return [event[1] for event in self.events if event[0] == kind]


@dataclass
class Loader:
    """Gives the number of its step as the batch."""

    served: list[int] = field(default_factory=list)
    closed: bool = False

    def iterate(self, start: int):
        try:
            step = start
            while True:
                self.served.append(step)
                yield step, step
                step += 1
        finally:
            self.closed = True


def state_at(step: int, in_a_row: int = 0) -> TrainState:
    numbers = [jnp.int32(n) for n in (step, in_a_row, in_a_row)]
    return TrainState(numbers[0], {}, {}, (), numbers[1], numbers[2])


def counts_steps(bad: tuple[int, ...] = ()):
    """The loss of a step is the number of its batch; `bad` batches are not finite."""

    def step(state, batch):
        assert int(state.step) == batch, "a step reads the batch of its number"
        return state_at(batch + 1), make_metrics(float(batch), float(batch in bad))

    return step


def make_run(recorder: Recorder, *overrides: str, bad: tuple[int, ...] = ()):
    # The hand-made metrics are of two layers, as the small config has.
    config = small_config(f"train.steps={STEPS}", "metrics.log_every=2", *ONE_DEVICE, *overrides)
    session = session_on_first_devices(config)
    loader, anything = Loader(), recorder
    step, info = counts_steps(bad), {"of": "the run"}
    run = _Run(session, step, loader, anything, anything, anything, Path("run"), info)
    return run, loader


def never(step: int) -> bool:
    return False


def test_a_run_ends_after_its_last_step_with_a_checkpoint():
    recorder = Recorder(every=4)
    run, loader = make_run(recorder)
    assert run(state_at(0), never) == Outcome(STEPS, STEPS - 1.0, None, False, run.config)
    assert recorder.of("save") == [4, STEPS]
    assert loader.closed
    # Every step is written; shown are those of `metrics.log_every`, and the last.
    assert recorder.of("write") == [1, 2, 3, 4, 5, 6]
    assert recorder.of("report") == [2, 4, 6]


def test_a_step_that_is_saved_already_is_not_saved_again():
    recorder = Recorder(every=3)
    make_run(recorder)[0](state_at(0), never)
    assert recorder.of("save") == [3, STEPS]


def test_a_resumed_run_goes_on_at_its_step():
    recorder = Recorder()
    run, loader = make_run(recorder)
    run(state_at(4), never)
    assert loader.served[:2] == [4, 5]
    assert recorder.of("write") == [5, 6]


def test_a_run_that_is_complete_trains_no_further():
    recorder = Recorder()
    recorder.last_step = STEPS
    run, _ = make_run(recorder)
    assert run(state_at(STEPS), never) == Outcome(STEPS, None, None, False, run.config)
    assert recorder.events == []


@pytest.mark.parametrize("at", [1, 3])
def test_preemption_ends_the_run_after_the_step_with_one_checkpoint(at):
    recorder = Recorder(every=at)
    run, loader = make_run(recorder)
    outcome = run(state_at(0), lambda step: step == at)
    assert outcome == Outcome(at, at - 1.0, None, True, run.config)
    assert recorder.of("save") == [at]
    assert loader.closed


def test_preemption_at_the_last_step_leaves_nothing_to_do():
    run, _ = make_run(Recorder())
    assert not run(state_at(0), lambda step: step == STEPS).preempted


def test_validation_is_due_at_its_interval_and_at_the_end():
    recorder, seen = Recorder(), []
    run, _ = make_run(recorder, "train.validation_every=4")

    def validate(state):
        seen.append(int(state.step))
        return 0.5

    run.validation = validate
    outcome = run(state_at(0), never)
    assert seen == [4, STEPS]
    assert outcome.validation_loss == 0.5
    written = [step for kind, step, *rest in recorder.events if (kind, rest) == ("write", [True])]
    assert written == seen


def test_a_skipped_step_is_shown_and_one_that_follows_starts_the_count_anew():
    recorder = Recorder()
    run, _ = make_run(recorder, "train.max_skipped=2", bad=(0, 2, 4))
    assert run(state_at(0), never).step == STEPS
    assert recorder.of("report") == [1, 2, 3, 4, 5, 6]


def test_too_many_skipped_steps_in_a_row_end_the_run_without_a_checkpoint():
    recorder = Recorder()
    run, loader = make_run(recorder, "train.max_skipped=2", bad=(2, 3))
    with pytest.raises(NonFiniteError, match=r"2 steps in a row .*last of them step 3 "):
        run(state_at(0), never)
    assert recorder.of("save") == []
    assert recorder.of("write") == [1, 2, 3, 4]
    assert loader.closed


def test_skipped_steps_before_a_checkpoint_count_after_it():
    run, _ = make_run(Recorder(), "train.max_skipped=3", bad=(3,))
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        run(state_at(3, in_a_row=2), never)


def test_a_resumed_run_says_that_it_needs_no_initial_weights(tmp_path):
    session = session_on_first_devices(small_config(*ONE_DEVICE))
    origin = {"family": "mixtral"}
    info = {"config": dump_config(session.config), loop.ORIGIN: origin}
    restored = Restored(3, state_at(3), info, [])
    start = _start(session, None, restored, tmp_path / "weights")
    assert start.state is restored.state
    assert start.origin == origin
    assert "resuming from the checkpoint of step 3" in start.lines[0]
    assert "is not used" in start.lines[-1]


@pytest.mark.parametrize("other", [(7,), (7, 8)])
def test_processes_with_other_text_are_refused(monkeypatch, other):
    """As seen by a process whose neighbour has `other` digests."""
    loader = SimpleNamespace(fingerprint=lambda: {"sha": "a"})
    monkeypatch.setattr(loop.jax, "process_count", lambda: 2)

    def gathered(value):
        value = np.asarray(value)
        theirs = np.asarray(other, value.dtype) if value.ndim else np.int32(len(other))
        return np.stack([value, np.resize(theirs, value.shape)])

    monkeypatch.setattr(loop.multihost_utils, "process_allgather", gathered)
    with pytest.raises(ValueError, match="different training text"):
        loop.require_same_text_everywhere(loader)
