"""What goes into an engine and what comes out of it, and what an engine promises.

The engine itself is `engine.py`; who shares it among requests is `batcher.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moe_jax.inference.sampling_options import SamplingOptions

#: Texts that are continued together unless told otherwise: their cache must fit beside the model.
USUAL_SLOTS = 16


# Arrays do not compare to one truth value, so prompts compare by identity.
@dataclass(frozen=True, eq=False)
class Prompt:
    """A text to continue, and how to sample what follows."""

    #: int32 [tokens], at least one.
    tokens: np.ndarray
    sampling: SamplingOptions


#: The likeliest tokens at a place, most likely first, each with its logprob in nats.
Alternatives = tuple[tuple[int, float], ...]


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

        Raises:
            UserError: for more prompts than free slots, an empty prompt, one that leaves no room
                for a token in the context, or ids outside the vocabulary.
        """
        ...

    def step(self) -> list[Token]:
        """Return the next token of every slot that is started and not released."""
        ...

    def release(self, slots: Iterable[int]) -> None:
        """Frees slots; what they held is forgotten."""
        ...
