"""What a caller gives a `LanguageModel`, checked before anything runs: names, tokens, lengths.

Ranges of sampling options are checked by `sampling_options.py`, requests against an engine by
`batcher.py`.
"""

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from moe_jax.errors import UserError
from moe_jax.inference.batcher import Request
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

    def context(self, asked: int | None, requests: Sequence[Request]) -> int:
        """Return the context that requests get: what was asked for, or else what they need.

        Raises:
            UserError: it is no context, or a prompt does not fit.
        """
        limit = self.usual if asked is None else asked
        if limit < 2:
            raise UserError(f"context ({limit}) must hold a prompt and a token: 2 or more")
        for request in requests:
            if request.tokens.size >= limit:
                raise UserError(
                    f"the prompt has {request.tokens.size} tokens and the context is {limit} for "
                    f"prompt and answer together: shorten the prompt to {limit - 1} tokens or "
                    f"fewer, or ask for more by context=N (--context N), knowing that the model "
                    f"was made for {self.longest} tokens"
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
        """Log a warning if the model was not made for a context."""
        if context > self.longest:
            logger.warning(
                "a context of %d tokens is beyond the %d that the model was made for: what it "
                "says after them may make no sense",
                context,
                self.longest,
            )


def check_options(name: str, given: Iterable[str], *calls: Callable[..., Any]) -> None:
    """Refuses options of calls that give text which neither they have nor `SamplingOptions`.

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

    Raises:
        TypeError: they are no tokens.
        UserError: there are none, or ids outside the vocabulary.
    """
    try:
        array = np.asarray(tokens)
    except ValueError:  # texts of different lengths
        array = np.empty((), object)
    if array.size == 0:
        raise UserError("the prompt is empty: give at least one token")
    if array.dtype.kind not in "iu" or not 1 <= array.ndim <= dimensions:
        several = ", or of several texts of one length" if dimensions > 1 else ""
        raise TypeError(
            f"got {tokens!r:.80}: give a text, or the integer tokens of a text{several}"
        )
    outside = array[(array < 0) | (array >= vocab_size)]
    if outside.size:
        raise UserError(
            f"the prompt holds the token id {outside[0]}: ids run from 0 to {vocab_size - 1}"
        )
    return array.astype(np.int32)
