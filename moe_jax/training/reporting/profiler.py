"""Profiles the steps that the config names, for TensorBoard or Perfetto."""

from pathlib import Path

import jax


class Profiler:
    """Starts before the first and stops after the last of `steps` ((first, last) or ())."""

    def __init__(self, directory: Path, steps: tuple[int, ...]):
        self._directory = directory
        self._first, self._last = steps if steps else (None, None)
        self._running = False

    def before(self, step: int) -> None:
        """Start if this is the first step to profile."""
        if step == self._first:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, result: object) -> None:
        """Stop once `result`, what the last step computed, is there."""
        if self._running and step == self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Stop if profiling is under way."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
