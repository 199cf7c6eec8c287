"""Profiles the steps that the config names, for TensorBoard or Perfetto, and sums them up."""

from collections.abc import Callable
from pathlib import Path

import jax

from moe_jax.training.reporting.trace.summary import summarize_profile


class Profiler:
    """Starts before the first and stops after the last of `steps` ((first, last) or ()).

    Args:
        directory: where traces go.
        steps: first and last one, or none.
        note: takes a line of the summary.
    """

    def __init__(self, directory: Path, steps: tuple[int, ...], note: Callable[[str], None]):
        self._directory = directory
        self._first, self._last = steps if steps else (None, None)
        self._note = note
        self._running = False

    def before(self, step: int) -> None:
        """Start if this is the first step to profile."""
        if step == self._first:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, result: object) -> None:
        """Stop once `result`, what the last step computed, is there, and sum up."""
        if self._running and step == self._last:
            jax.block_until_ready(result)
            self.close()
            self._sum_up()

    def close(self) -> None:
        """Stop if profiling is under way."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def _sum_up(self) -> None:
        assert self._first is not None
        assert self._last is not None
        try:
            lines = summarize_profile(self._directory, self._last - self._first + 1)
        # A summary is not worth a run: what a profile holds is other people's business.
        except Exception as error:
            lines = [f"the profile in {self._directory} could not be summed up: {error}"]
        for line in lines:
            self._note(line)
