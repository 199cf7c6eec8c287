"""Noticing that the scheduler wants this job to end, in time to save and leave cleanly.

What to do about it (save, close, exit code) is the training loop's business. With
`jax.distributed`, JAX's preemption service owns SIGTERM and finds a step that all processes reach;
without it, a signal handler sets a flag.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextmanager
def watch_preemption() -> Iterator[Callable[[int], bool]]:
    """Within the context, SIGTERM asks the loop to stop instead of killing the process.

    Yields `preemption_requested(step)`. Call it once in every step, in all processes and with the
    same step: that is how JAX finds a step that none has passed, and without it SIGTERM would be
    ignored. When it is true (in the same step for all processes), save and leave the loop.
    Without `jax.distributed`, a second SIGTERM acts as it did before the context.

    Raises:
        UserError: Entered outside the main thread, where Python allows no signal handlers.

    Example:
        >>> with watch_preemption() as preemption_requested:
        ...     preemption_requested(0)
        False
    """
    if jax.distributed.is_initialized():
        # A Python handler here would replace the service's own and disable it.
        yield multihost_utils.reached_preemption_sync_point
        return
    received = False
    previous = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        signal.signal(signal.SIGTERM, previous)

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: received
    finally:
        signal.signal(signal.SIGTERM, previous)
