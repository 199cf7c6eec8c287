"""What a language model answers with: continuations, and how likely texts are. Only data."""

from dataclasses import dataclass

import numpy as np

from moe_jax.inference.batcher import Finish
from moe_jax.inference.contract import Alternatives


@dataclass(frozen=True)
class Completion:
    """What was generated for a request."""

    text: str
    #: An end token too.
    tokens: tuple[int, ...]
    #: Of the model's own distribution, in nats.
    logprobs: tuple[float, ...]
    finish: Finish
    #: Of each token, those that were asked for; see `Token`.
    alternatives: tuple[Alternatives, ...] = ()


@dataclass(frozen=True)
class Score:
    """How likely a text is to a model."""

    tokens: tuple[int, ...]
    #: Of every token but the first, given those before it; in nats.
    logprobs: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        return float(np.exp(-np.mean(self.logprobs)))
