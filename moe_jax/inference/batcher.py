"""Continuous batching: requests share an engine's slots, each for as long as it runs.

A request waits until a slot is free, is continued by one token at every step, and leaves its slot
to the next one as soon as it ends. Neither threads nor HTTP live here (see `moe_jax.serve`), nor
the cutting of text at stop strings (see `stopping.py`), nor checks of prompts (see `checks.py`).
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moe_jax.data.tokenizers import StreamDecoder
from moe_jax.inference.contract import Engine, Event, Finish, GenerationRequest, Token
from moe_jax.inference.stopping import StopText


class Decodes(Protocol):
    """What a batcher needs of a tokenizer."""

    def stream_decoder(self, prompt: np.ndarray) -> StreamDecoder:
        """Return what turns the tokens that follow a prompt [s] into text."""
        ...


@dataclass
class _Running:
    """A request in a slot."""

    number: int
    request: GenerationRequest
    text: StopText
    #: Tokens it may still generate.
    left: int


class Batcher:
    """Spreads requests over an engine's slots, first come, first served.

    Its answers to a request do not depend on the other requests, as far as the engine's do not.

    Args:
        engine: nobody else may use it.
        tokenizer: turns tokens into text.
    """

    def __init__(self, engine: Engine, tokenizer: Decodes):
        self._engine = engine
        self._tokenizer = tokenizer
        self._waiting: deque[tuple[int, GenerationRequest]] = deque()
        self._running: dict[int, _Running] = {}
        self._cancelled: list[int] = []
        self._submitted = 0
        #: Whether the last call started something, so that it is the running ones' turn.
        self._started = False

    @property
    def slots(self) -> int:
        """Requests that can run together."""
        return self._engine.slots

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in slots."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether `advance` has anything to do."""
        return bool(self._waiting or self._running or self._cancelled)

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request and return the number that its events carry.

        Args:
            request: checked where it was made (see `checks.py`), for this engine's context.
        """
        self._submitted += 1
        self._waiting.append((self._submitted, request))
        return self._submitted

    def cancel(self, number: int) -> None:
        """End a request and free its slot; its last event comes with the next `advance`.

        One that has finished already is left alone: whoever cancels cannot know.

        Args:
            number: what `submit` returned.
        """
        slots = [slot for slot, running in self._running.items() if running.number == number]
        kept = deque(entry for entry in self._waiting if entry[0] != number)
        if slots:
            self._engine.release(slots)
            del self._running[slots[0]]
        elif len(kept) == len(self._waiting):
            return
        self._waiting = kept
        self._cancelled.append(number)

    def advance(self) -> list[Event]:
        """Make one call to the engine: starts what fits into free slots, or continues what runs.

        Both take turns, so neither first tokens nor next ones wait long for the other.

        Returns:
            What happened to each request; none when nothing is waiting or running.
        """
        events = [Event(number, "", (), (), "cancelled") for number in self._cancelled]
        self._cancelled = []
        startable = min(self._engine.idle, len(self._waiting))
        if startable and not (self._started and self._running):
            self._started = True
            return events + self._start(startable)
        self._started = False
        if self._running:
            events += self._take(self._engine.step())
        return events

    def _start(self, count: int) -> list[Event]:
        started = [self._waiting.popleft() for _ in range(count)]
        tokens = self._engine.start([request for _, request in started])
        for token, (number, request) in zip(tokens, started, strict=True):
            text = StopText(self._tokenizer.stream_decoder(request.tokens), request.stop)
            left = min(request.max_tokens, self._engine.context - request.tokens.size)
            self._running[token.slot] = _Running(number, request, text, left)
        return self._take(tokens)

    def _take(self, tokens: list[Token]) -> list[Event]:
        """Hand each token to its request and frees the slots of those that end."""
        events = [_event(self._running[token.slot], token) for token in tokens]
        ended = [token.slot for token, event in zip(tokens, events, strict=True) if event.finish]
        if ended:
            self._engine.release(ended)
        for slot in ended:
            del self._running[slot]
        return events


def _event(running: _Running, token: Token) -> Event:
    running.left -= 1
    finish: Finish = ""
    text = ""
    if token.id in running.request.end_ids:
        finish = "stop"
    else:
        text = running.text.push(token.id)
        if not running.text.stopped and not running.left:
            finish = "length"
    if finish:
        text += running.text.finish()
    if running.text.stopped:
        finish = "stop"
    one, logprob, alternatives = (token.id,), (token.logprob,), (token.alternatives,)
    return Event(running.number, text, one, logprob, finish, alternatives)
