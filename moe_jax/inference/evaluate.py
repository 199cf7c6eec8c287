"""How well a model predicts texts: perplexity per token, and bits per byte.

A text longer than the context is read in windows that overlap, each of which scores only what the
one before did not, as in Hugging Face's guide to perplexity of models with a fixed length. The
forward pass is `forward.py`.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from moe_jax.errors import UserError
from moe_jax.inference.language_model import LanguageModel


@dataclass(frozen=True)
class ScoredWindow:
    """Part of a text that a model sees at once, as places of tokens in the text.

    It sees tokens `start` to `end`, of which those from `scored` on are predicted; the first that
    it sees never is.
    """

    start: int
    end: int
    scored: int


@dataclass(frozen=True)
class Evaluation:
    """Sums over texts, and what follows from them."""

    texts: int
    #: Tokens that were predicted.
    tokens: int
    #: Of the texts, in UTF-8.
    bytes: int
    #: Sum of -log p over tokens, in nats.
    nll: float

    @property
    def nats_per_token(self) -> float:
        """Mean -log p of a token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Exponential of `nats_per_token`."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Bits that a byte of the texts costs; comparable between tokenizers."""
        return self.nll / math.log(2) / self.bytes


def evaluate(
    model: LanguageModel,
    texts: Iterable[str],
    *,
    context: int,
    stride: int,
    report: Callable[[Evaluation], None] = lambda so_far: None,
) -> Evaluation:
    """Score texts one by one; each begins as prompts do.

    Args:
        model: what predicts.
        texts: one after the other, none of which sees another.
        context: tokens that the model sees at once.
        stride: tokens from one window to the next; smaller ones show each token more of its past,
            and cost more.
        report: is told the sums so far, after each batch.

    Raises:
        UserError: for a context or stride out of range, or texts without a token to predict.
    """
    if context < 2:
        raise UserError(f"context ({context}) must be 2 or more: a token, and one before it")
    if not 1 <= stride <= context:
        raise UserError(f"stride ({stride}) must be from 1 to the context ({context})")
    counts = {"texts": 0, "bytes": 0}

    def pieces() -> Iterator[tuple[np.ndarray, ScoredWindow]]:
        for text in texts:
            tokens = model.tokenizer.encode_prompt(text)
            counts["texts"] += 1
            counts["bytes"] += len(text.encode("utf-8"))
            for window in windows(tokens.size, context, stride):
                yield tokens, window

    forward, tokens, nll = model.forward(), 0, 0.0
    parts = pieces()
    while batch := list(itertools.islice(parts, forward.rows)):
        arrays = _arrays(batch, forward.rows, context)
        nll += forward.loss(*arrays)
        tokens += int(arrays[2].sum())
        report(Evaluation(tokens=tokens, nll=nll, **counts))
    if not tokens:
        raise UserError("the texts have no token that follows another: give longer ones")
    return Evaluation(tokens=tokens, nll=nll, **counts)


def windows(length: int, context: int, stride: int) -> list[ScoredWindow]:
    """Return the windows of a text, first to last.

    Args:
        length: tokens of the text.
        context: tokens of a window, at most.
        stride: tokens from one window's start to the next.
    """
    cut: list[ScoredWindow] = []
    for start in range(0, length, stride):
        end = min(start + context, length)
        cut.append(ScoredWindow(start, end, max(cut[-1].end if cut else 0, start + 1)))
        if end == length:
            break
    return cut


def _arrays(
    batch: list[tuple[np.ndarray, ScoredWindow]], rows: int, context: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens, targets and weights [rows, context]; one shape for all batches."""
    seen = np.zeros((rows, context), np.int32)
    targets = np.zeros((rows, context), np.int32)
    weights = np.zeros((rows, context), np.float32)
    for row, (tokens, window) in enumerate(batch):
        part = tokens[window.start : window.end]
        seen[row, : part.size] = part
        targets[row, : part.size - 1] = part[1:]
        # Place p predicts token p + 1.
        weights[row, window.scored - window.start - 1 : part.size - 1] = 1
    return seen, targets, weights
