"""The answers to one HTTP request on their way from the engine's thread to the server's loop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from moe_jax.inference.contract import Event
from moe_jax.serve.errors import ApiError


@dataclass
class Destination:
    """Where a text's events go, and when they came, in seconds of `time.monotonic`."""

    ticket: "Ticket"
    #: Which of the ticket's texts it is.
    index: int
    first: float | None = None
    last: float = 0.0


class Ticket:
    """What its holder iterates over; to be made in a running event loop.

    Args:
        count: texts that were asked for.
        cancel: tells the engine's thread that nobody wants the rest.
    """

    def __init__(self, count: int, cancel: Callable[["Ticket"], None]):
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event] | ApiError] = asyncio.Queue()
        self._count, self._cancel = count, cancel
        self.arrived = time.monotonic()
        #: Texts that the engine has not finished; the engine thread's.
        self.left = count
        #: The batcher's numbers of the texts; the engine thread's.
        self.numbers: list[int] = []

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield each text's index and its next event, until all texts are finished.

        Raises:
            ApiError: the engine failed or the server is closing.
        """
        unfinished = self._count
        while unfinished:
            item = await self._events.get()
            if isinstance(item, ApiError):
                raise item
            unfinished -= bool(item[1].finish)
            yield item

    def cancel(self) -> None:
        """Free what is still running or waiting; safe to call at any time."""
        self._cancel(self)

    def put(self, item: tuple[int, Event] | ApiError) -> None:
        """From any thread."""
        # The loop is closed where a stuck engine answers after its server has gone.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, item)
