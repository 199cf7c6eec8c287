"""Continuous batching: requests share an engine's slots, each for as long as it runs.

A request waits until a slot is free, is continued by one token at every step, and leaves its slot
to the next one as soon as it ends. Neither threads nor HTTP live here (see `moe_jax.serve`), nor
the cutting of text at stop strings (see `stopping.py`).
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from moe_jax.data.tokenizers import StreamDecoder
from moe_jax.errors import UserError
from moe_jax.inference.contract import Alternatives, Engine, Prompt, Token
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.inference.stopping import StopText

Finish = Literal["", "stop", "length", "cancelled"]


class Decodes(Protocol):
    """What a batcher needs of a tokenizer."""

    def stream_decoder(self, prompt: np.ndarray) -> StreamDecoder: ...


# Holds an array, so requests compare by identity.
@dataclass(frozen=True, eq=False)
class Request:
    """A text to continue, and where its continuation ends.

    Raises:
        UserError: for no tokens to generate, or an empty stop string.
    """

    #: int32 [tokens], at least one.
    tokens: np.ndarray
    #: Tokens to generate at most; the engine's context may allow fewer.
    max_tokens: int
    sampling: SamplingOptions
    #: Texts before which the continuation ends.
    stop: tuple[str, ...] = ()
    #: Tokens that end the continuation and are no part of its text.
    end_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens ({self.max_tokens}) must be 1 or more")
        if "" in self.stop:
            raise UserError("stop holds an empty string, which every text contains: remove it")


@dataclass(frozen=True)
class Event:
    """What a request gained in a step; the last one says why it finished."""

    #: What `submit` returned.
    request: int
    #: Text that became certain; may be empty while a character or stop string is incomplete.
    text: str
    #: What was generated, an end token too.
    tokens: tuple[int, ...]
    #: Of the model's own distribution, one per token, in nats.
    logprobs: tuple[float, ...]
    #: "" while it goes on; "stop" at an end token or stop string, "length" at `max_tokens` or the
    #: engine's context.
    finish: Finish = ""
    #: Of each token, those that were asked for; see `Token`.
    alternatives: tuple[Alternatives, ...] = ()


@dataclass
class _Running:
    """A request in a slot."""

    number: int
    request: Request
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
        self._waiting: deque[tuple[int, Request]] = deque()
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

    def check(self, request: Request) -> None:
        """Refuses a request that the engine cannot run; changes nothing, so any thread may ask.

        Raises:
            UserError: its prompt is empty or leaves no room for a token in the context, or it
                names ids outside the vocabulary.
        """
        length, context = request.tokens.size, self._engine.context
        if not length:
            raise UserError("the prompt is empty: give at least one token")
        if length >= context:
            raise UserError(
                f"the prompt has {length} tokens and the context is {context} for prompt and "
                f"answer together: shorten the prompt to {context - 1} tokens or fewer"
            )
        size = self._engine.vocab_size
        outside = request.tokens[(request.tokens < 0) | (request.tokens >= size)]
        if outside.size:
            raise UserError(
                f"the prompt holds the token id {outside[0]}: ids run from 0 to {size - 1}"
            )
        for token, _ in request.sampling.logit_bias:
            if token >= size:
                raise UserError(
                    f"logit_bias holds the token id {token}: ids run from 0 to {size - 1}"
                )

    def submit(self, request: Request) -> int:
        """Queues a request and returns the number that its events carry.

        Raises:
            UserError: see `check`.
        """
        self.check(request)
        self._submitted += 1
        self._waiting.append((self._submitted, request))
        return self._submitted

    def cancel(self, number: int) -> None:
        """End a request and free its slot; its last event comes with the next `advance`.

        One that has finished already is left alone: whoever cancels cannot know.
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
        tokens = self._engine.start([Prompt(r.tokens, r.sampling) for _, r in started])
        for token, (number, request) in zip(tokens, started, strict=True):
            text = StopText(self._tokenizer.stream_decoder(request.tokens), request.stop)
            left = min(request.max_tokens, self._engine.context - request.tokens.size)
            self._running[token.slot] = _Running(number, request, text, left)
        return self._take(tokens)

    def _take(self, tokens: list[Token]) -> list[Event]:
        """Hands each token to its request and frees the slots of those that end."""
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
