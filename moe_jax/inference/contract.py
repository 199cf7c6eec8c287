"""What goes into generation, what comes out, and what an engine promises. Only data.

Downwards a `GenerationRequest` goes to the batcher, and as the `Prompt` that it is to the engine;
upwards a `Token` comes out of the engine, an `Event` out of the batcher, and a `Completion` out of
a `LanguageModel`. What a prompt must be is `checks.py`: who makes one has checked it there, and
batcher and engine trust it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Protocol

import numpy as np

from moe_jax.errors import UserError
from moe_jax.inference.sampling_options import SamplingOptions

#: Why a text ended; "" while it goes on. "stop" at an end token or stop string, "length" at
#: `max_tokens` or the engine's context.
Finish = Literal["", "stop", "length", "cancelled"]
#: The likeliest tokens at a place, most likely first, each with its logprob in nats.
Alternatives = tuple[tuple[int, float], ...]
#: Texts that are continued together unless told otherwise: their cache must fit beside the model.
USUAL_SLOTS = 16


# Arrays do not compare to one truth value, so prompts compare by identity.
@dataclass(frozen=True, eq=False)
class Prompt:
    """A text to continue, and how to sample what follows."""

    #: int32 [tokens], at least one.
    tokens: np.ndarray
    sampling: SamplingOptions


@dataclass(frozen=True, eq=False)
class GenerationRequest(Prompt):
    """A prompt, and where its continuation ends.

    Raises:
        UserError: for no tokens to generate, or an empty stop string.
    """

    _: KW_ONLY
    #: Tokens to generate at most; the engine's context may allow fewer.
    max_tokens: int
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
class Token:
    """One generated token."""

    #: The place of its request among the engine's.
    slot: int
    id: int
    #: Of the model's own distribution, before bias, penalties, temperature and cuts; in nats.
    logprob: float
    #: Of the same distribution; as many as `SamplingOptions.top_logprobs` asks for.
    alternatives: Alternatives = ()


@dataclass(frozen=True)
class Event:
    """What a request gained in a step; the last one says why it finished."""

    #: What `Batcher.submit` returned.
    request: int
    #: Text that became certain; may be empty while a character or stop string is incomplete.
    text: str
    #: What was generated, an end token too.
    tokens: tuple[int, ...]
    #: Of the model's own distribution, one per token, in nats.
    logprobs: tuple[float, ...]
    finish: Finish = ""
    #: Of each token, those that were asked for; see `Token`.
    alternatives: tuple[Alternatives, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What was generated for a request: the sum of its events."""

    text: str
    #: An end token too.
    tokens: tuple[int, ...]
    #: Of the model's own distribution, in nats.
    logprobs: tuple[float, ...]
    finish: Finish
    #: Of each token, those that were asked for; see `Token`.
    alternatives: tuple[Alternatives, ...] = ()

    def after(self, event: Event) -> "Completion":
        """Return this with what an event brings."""
        return Completion(
            self.text + event.text,
            self.tokens + event.tokens,
            self.logprobs + event.logprobs,
            event.finish,
            self.alternatives + event.alternatives,
        )


@dataclass(frozen=True)
class Score:
    """How likely a text is to a model."""

    tokens: tuple[int, ...]
    #: Of every token but the first, given those before it; in nats.
    logprobs: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative logprob of a token."""
        return float(np.exp(-np.mean(self.logprobs)))


class Engine(Protocol):
    """Continues several texts at a time, each in a slot of its own.

    What it answers depends on the calls alone: in a job of several processes each makes the same
    calls in the same order and gets the same tokens.
    """

    @property
    def slots(self) -> int:
        """Requests that decode together."""
        ...

    @property
    def context(self) -> int:
        """Tokens of a request, prompt and generated ones together, at most."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids of prompts are below."""
        ...

    @property
    def idle(self) -> int:
        """Slots that are free."""
        ...

    def start(self, prompts: Sequence[Prompt]) -> list[Token]:
        """Put prompts into free slots and return the first token of each, in their order.

        Args:
            prompts: checked ones, fewer tokens each than `context`.

        Raises:
            UserError: for more prompts than free slots.
        """
        ...

    def step(self) -> list[Token]:
        """Return the next token of every slot that is started and not released."""
        ...

    def release(self, slots: Iterable[int]) -> None:
        """Free slots; what they held is forgotten."""
        ...
