"""The thread that runs the batcher, and the bounded queue before it.

The server's event loop hands texts in (`submit`) and gets tickets, whose events this thread fills
in. Nothing here knows HTTP.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from moe_jax.inference.batcher import Batcher
from moe_jax.inference.contract import Event, GenerationRequest
from moe_jax.serve.errors import closing, failed, overflow
from moe_jax.serve.metrics import Metrics
from moe_jax.serve.ticket import Destination, Ticket

log = logging.getLogger(__name__)


class EngineThread:
    """Advances a batcher for as long as there is work, and sleeps otherwise.

    Args:
        batcher: nobody else may use it.
        queue: texts that may wait for a slot.
        stalled_after: seconds without a step after which the engine counts as stuck.
        metrics: where tokens and times are counted.
    """

    def __init__(self, batcher: Batcher, *, queue: int, stalled_after: float, metrics: Metrics):
        self._batcher, self._metrics = batcher, metrics
        self._stalled_after = stalled_after
        #: Texts that may wait and run at a time.
        self.room = batcher.slots + queue
        #: Guards what both threads write: all that follows but `_destinations`.
        self._changed = threading.Condition()
        self._inbox: list[Callable[[], None]] = []
        self._tickets: set[Ticket] = set()
        self._failed = self._draining = self._closed = False
        self._beat = time.monotonic()
        #: Texts that left a slot, and the seconds they held it from their first token on.
        self._finished, self._seconds = 0, 0.0
        self._destinations: dict[int, Destination] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.gauge("slots", "Texts that can run together", lambda: batcher.slots)
        metrics.gauge("running", "Texts in slots", lambda: self.running)
        metrics.gauge("queue_length", "Texts that wait for a slot", lambda: self.waiting)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Texts that were accepted and are not finished."""
        with self._changed:
            return sum(ticket.left for ticket in self._tickets)

    @property
    def running(self) -> int:
        """Texts in slots; a failed engine runs none, whatever its batcher still holds."""
        return 0 if self._failed else self._batcher.running

    @property
    def waiting(self) -> int:
        """Texts that have no slot yet."""
        return max(self.in_flight - self.running, 0)

    @property
    def state(self) -> str:
        """What /health says: "ok", or why no texts are served: "failed", "closing", "stalled"."""
        if self._failed:
            return "failed"
        if self._draining:
            return "closing"
        silent = time.monotonic() - self._beat
        return "stalled" if self.in_flight and silent > self._stalled_after else "ok"

    def submit(self, requests: Sequence[GenerationRequest]) -> Ticket:
        """Accept all of `requests` or none; for the event loop, which it never blocks.

        Args:
            requests: checked where they were made, see `request.py`.

        Raises:
            ApiError: the queue is full, the engine has failed, or the server is closing.
        """
        with self._changed:
            if self._failed:
                raise failed()
            if self._draining:
                raise closing()
            if self.in_flight + len(requests) > self.room:
                raise overflow(self.waiting, self._retry_after())
            ticket = Ticket(len(requests), self._cancel)
            self._tickets.add(ticket)
            self._enqueue(partial(self._admit, ticket, requests))
        self._metrics.prompt_tokens.inc(sum(request.tokens.size for request in requests))
        return ticket

    def drain(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self._draining = True

    def cancel_all(self) -> None:
        """Accept nothing more, and tell everybody who waits; does not wait for the engine."""
        with self._changed:
            self._draining = True
            for ticket in self._tickets:
                ticket.put(closing())
                self._enqueue(partial(self._drop, ticket))

    def close(self, seconds: float) -> bool:
        """Cancel what is left and end the thread.

        Args:
            seconds: to wait for the engine's last step.

        Returns:
            Whether it ended within `seconds`; a stuck engine's is left behind.
        """
        self.cancel_all()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.error("the engine has not answered for %g s: it is left behind", seconds)
        return not self._thread.is_alive()

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket in self._tickets:
                self._enqueue(partial(self._drop, ticket))

    def _enqueue(self, command: Callable[[], None]) -> None:
        self._inbox.append(command)
        self._changed.notify()

    def _retry_after(self) -> int:
        """Return after how many whole seconds a slot should be free, by what texts took so far."""
        mean = self._seconds / self._finished if self._finished else 0.0
        return max(math.ceil(mean / self._batcher.slots), 1)

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            while self._intake():
                self._deliver(self._batcher.advance())
        except Exception:
            log.exception("the engine failed")
            self._fail()

    def _intake(self) -> bool:
        """Wait for work and do what was asked meanwhile; return whether to go on."""
        with self._changed:
            while not (self._inbox or self._batcher.busy or self._closed):
                self._changed.wait()
            self._beat = time.monotonic()
            commands, self._inbox = self._inbox, []
        for command in commands:
            command()
        return self._batcher.busy or not self._closed

    def _admit(self, ticket: Ticket, requests: Sequence[GenerationRequest]) -> None:
        ticket.numbers = [self._batcher.submit(request) for request in requests]
        self._destinations |= {n: Destination(ticket, i) for i, n in enumerate(ticket.numbers)}

    def _drop(self, ticket: Ticket) -> None:
        for number in ticket.numbers:
            self._batcher.cancel(number)

    def _fail(self) -> None:
        with self._changed:
            self._failed = True
            tickets, self._tickets = self._tickets, set()
        for ticket in tickets:
            ticket.put(failed())

    def _deliver(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        for event in events:
            destination = self._destinations[event.request]
            self._measure(destination, event, now)
            destination.ticket.put((destination.index, event))
            if event.finish:
                self._finish(event.request, destination)

    def _measure(self, destination: Destination, event: Event, now: float) -> None:
        if not event.tokens:
            return
        self._metrics.generated_tokens.inc(len(event.tokens))
        if destination.first is None:
            destination.first = now
            self._metrics.first_token.observe(now - destination.ticket.arrived)
        else:
            self._metrics.next_token.observe(now - destination.last)
        destination.last = now

    def _finish(self, number: int, destination: Destination) -> None:
        del self._destinations[number]
        if destination.first is not None:
            self._finished += 1
            self._seconds += destination.last - destination.first
        with self._changed:
            destination.ticket.left -= 1
            if not destination.ticket.left:
                self._tickets.discard(destination.ticket)
