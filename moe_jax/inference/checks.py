"""What a prompt, its length and its options must be: every rule of it, each stated once.

A request is checked once, where it is made: by `language_model.py` for Python callers, by
`serve/request.py` for HTTP. Behind those doors batcher and engine trust it. What a value must be
whatever the model is (ranges, empty stop strings) its own class says: `sampling_options.py`,
`contract.py`.
"""

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from moe_jax.errors import UserError
from moe_jax.inference.contract import GenerationRequest
from moe_jax.inference.sampling_options import SamplingOptions

logger = logging.getLogger(__name__)

#: Contexts are rounded up to a multiple of this, so that the next request finds its engine.
CONTEXT_STEP = 128
#: What a caller who gets text alone has no use for: `LanguageModel.complete` and `stream` tell it.
BEYOND_TEXT = frozenset({"top_logprobs"})


@dataclass(frozen=True)
class Lengths:
    """How many tokens a text of a model may have, prompt included."""

    #: Unless more is asked for.
    usual: int
    #: What the model was made for.
    longest: int

    def context(self, asked: int | None, requests: Sequence[GenerationRequest]) -> int:
        """Return the context that requests get: what was asked for, or else what they need.

        Args:
            asked: tokens of prompt and answer; None takes what the requests need, up to `usual`.
            requests: those that run together.

        Raises:
            UserError: it is no context, or a prompt does not fit.
        """
        limit = self.usual if asked is None else asked
        check_context(limit)
        for request in requests:
            check_fits(
                request.tokens.size,
                limit,
                otherwise=", or ask for more by context=N (--context N), knowing that the model "
                f"was made for {self.longest} tokens",
            )
        if asked is not None:
            return asked
        wanted = max((r.tokens.size + r.max_tokens for r in requests), default=limit)
        if wanted > limit:
            logger.warning(
                "prompt and max_tokens make %d tokens: texts end at the context of %d unless "
                "context=N (--context N) asks for more",
                wanted,
                limit,
            )
        return min(limit, -(-wanted // CONTEXT_STEP) * CONTEXT_STEP)

    def warn_beyond(self, context: int) -> None:
        """Log a warning if the model was not made for a context of so many tokens."""
        if context > self.longest:
            logger.warning(
                "a context of %d tokens is beyond the %d that the model was made for: what it "
                "says after them may make no sense",
                context,
                self.longest,
            )


def check_context(context: int) -> None:
    """Raise UserError for a context that holds no prompt and answer; it is in tokens."""
    if context < 2:
        raise UserError(f"context ({context}) must hold a prompt and a token: 2 or more")


def check_fits(length: int, context: int, *, otherwise: str = "") -> None:
    """Refuse a prompt that leaves no room for an answer.

    Args:
        length: tokens of the prompt.
        context: tokens of prompt and answer together, at most.
        otherwise: another remedy than a shorter prompt.

    Raises:
        UserError: the context holds no more than the prompt.
    """
    if length >= context:
        raise UserError(
            f"the prompt has {length} tokens and the context is {context} for prompt and answer "
            f"together: shorten the prompt to {context - 1} tokens or fewer{otherwise}"
        )


def check_answer(max_tokens: int, length: int, context: int, most: int) -> None:
    """Refuse an answer that would be cut, where callers count on its length.

    Args:
        max_tokens: of the answer, as asked for.
        length: tokens of the prompt, which fits.
        context: tokens of prompt and answer together, at most.
        most: tokens of any answer, at most.

    Raises:
        UserError: fewer than `max_tokens` can follow the prompt.
    """
    room = min(most, context - length)
    if max_tokens > room:
        raise UserError(
            f"max_tokens ({max_tokens}) after a prompt of {length} tokens: the context is "
            f"{context} for prompt and answer together, and an answer has at most {most}: ask for "
            f"{room} or fewer"
        )


def check_scorable(tokens: np.ndarray) -> None:
    """Raise UserError for a text [s] in which no token follows another."""
    if tokens.size < 2:
        raise UserError("the text has fewer than 2 tokens: nothing follows anything")


def check_bias(sampling: SamplingOptions, vocab_size: int) -> None:
    """Raise UserError where `logit_bias` names a token that the vocabulary has not."""
    _check_ids("logit_bias", np.array([token for token, _ in sampling.logit_bias], int), vocab_size)


def check_options(name: str, given: Iterable[str], *calls: Callable[..., Any]) -> None:
    """Refuse options of calls that give text which neither they have nor `SamplingOptions`.

    Args:
        name: of the call, for the message.
        given: names of options.
        calls: whose options there are.

    Raises:
        TypeError: names the call, the option, the nearest one, and all that there are.
    """
    parameters = [p for call in calls for p in inspect.signature(call).parameters.values()]
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    known += [f.name for f in fields(SamplingOptions) if f.name not in BEYOND_TEXT]
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TypeError(f"{name} has no option {option!r}{hint}; it has {', '.join(known)}")


def is_one(prompts: Any) -> bool:
    """Return whether prompts are a single text or its tokens, rather than several.

    Args:
        prompts: what a caller gave to `generate`.

    Raises:
        TypeError: they are neither.
    """
    if isinstance(prompts, str | np.ndarray):
        return True
    if not isinstance(prompts, Sequence):
        raise TypeError(f"generate takes a text, tokens, or a list of those, got {prompts!r:.80}")
    return bool(prompts) and isinstance(prompts[0], int | np.integer)


def token_ids(tokens: Any, vocab_size: int, *, dimensions: int = 1) -> np.ndarray:
    """Return tokens as int32.

    Args:
        tokens: of one text [s]; with 2 `dimensions` also of several of one length [b, s].
        vocab_size: of the model.
        dimensions: 1 or 2.

    Raises:
        TypeError: they are no tokens.
        UserError: there are none, or ids outside the vocabulary.
    """
    array = _integers(tokens)
    if array is not None and array.size == 0:
        raise UserError("the prompt is empty: give at least one token")
    if array is None or not 1 <= array.ndim <= dimensions:
        several = ", or of several texts of one length" if dimensions > 1 else ""
        raise TypeError(
            f"got {tokens!r:.80}: give a text, or the integer tokens of a text{several}"
        )
    _check_ids("the prompt", array, vocab_size)
    return array.astype(np.int32)


def _integers(tokens: Any) -> np.ndarray | None:
    """Return an array of integers, however large; None where there is anything else."""
    try:
        array = np.asarray(tokens)
    except ValueError:  # texts of different lengths
        return None
    if array.dtype.kind in "iu" or array.size == 0:
        return array
    # Python's integers may be longer than 64 bits, where NumPy makes floats or objects of them.
    if array.ndim == 1 and all(type(token) is int for token in tokens):
        return np.array(tokens, object)
    return None


def _check_ids(owner: str, ids: np.ndarray, vocab_size: int) -> None:
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise UserError(
            f"{owner} holds the token id {outside[0]}: ids run from 0 to {vocab_size - 1}"
        )
