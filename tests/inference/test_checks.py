"""What a caller gives a model: names of options, tokens, lengths."""

import numpy as np
import pytest

from moe_jax.inference.checks import Lengths, check_options, is_one, token_ids
from moe_jax.inference.contract import GenerationRequest
from moe_jax.inference.language_model import LanguageModel
from moe_jax.inference.sampling_options import SamplingOptions

LENGTHS = Lengths(usual=512, longest=1024)


def request(size: int, max_tokens: int) -> GenerationRequest:
    return GenerationRequest(np.ones(size, np.int32), SamplingOptions(), max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("asked", "size", "max_tokens", "want"),
    [
        (None, 5, 20, 128),
        (None, 5, 124, 256),
        (None, 500, 12, 512),
        (None, 511, 200, 512),
        (None, 5, 100_000, 512),
        (64, 5, 20, 64),
        (2000, 1500, 20, 2000),
    ],
)
def test_the_default_context_never_exceeds_the_usual_one(asked, size, max_tokens, want):
    assert LENGTHS.context(asked, [request(size, max_tokens)]) == want


def test_a_text_that_will_be_cut_is_warned_of(caplog):
    LENGTHS.context(None, [request(312, 200)])
    LENGTHS.context(400, [request(312, 200)])
    assert not caplog.text
    LENGTHS.context(None, [request(313, 200)])
    assert "513 tokens: texts end at the context of 512 unless context=N" in caplog.text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (None, r"has 512 tokens and the context is 512 .* to 511 tokens or fewer, .*for 1024 tok"),
        (128, r"has 512 tokens and the context is 128 .* to 127 tokens or fewer"),
        (0, r"context \(0\) must hold a prompt and a token: 2 or more"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        LENGTHS.context(asked, [request(5, 9), request(512, 9)])


def test_more_than_the_model_was_made_for_is_warned_of(caplog):
    LENGTHS.warn_beyond(1024)
    assert not caplog.text
    LENGTHS.warn_beyond(1025)
    assert "a context of 1025 tokens is beyond the 1024 that" in caplog.text


def test_an_unknown_option_is_named_with_the_nearest():
    known = ["max_tokens", "stop", "top_k", "seed", "frequency_penalty", "presence_penalty"]
    check_options("generate", known, LanguageModel.generate)
    with pytest.raises(TypeError, match=r"generate has no option 'max_new_tokens' \(did you mean "):
        check_options("generate", ["max_new_tokens"], LanguageModel.generate)
    with pytest.raises(TypeError, match=r"'num_samples'; it has max_tokens, stop, .*temperature,"):
        check_options("generate", ["num_samples"], LanguageModel.generate)
    # It gives text, which has no room for alternatives.
    with pytest.raises(TypeError, match="generate has no option 'top_logprobs'"):
        check_options("generate", ["top_logprobs"], LanguageModel.generate)


def test_one_prompt_or_several():
    assert [is_one(p) for p in ("a", [1, 2], np.ones(3, int))] == [True] * 3
    assert [is_one(p) for p in (["a"], [[1], [2]], [])] == [False] * 3
    for wrong in (3, None, {"prompt": "a"}):
        with pytest.raises(TypeError, match="takes a text, tokens, or a list of those, got"):
            is_one(wrong)


def test_tokens_are_integers_of_the_vocabulary():
    found = token_ids(np.array([[1, 2], [3, 9]], np.int64), 10, dimensions=2)
    assert (found.dtype, found.tolist()) == (np.int32, [[1, 2], [3, 9]])
    for wrong in (3, "a", [1.5], ["a"], [[1], [2, 3]], [[1, 2]], [True]):
        with pytest.raises(TypeError, match="give a text, or the integer tokens of a text"):
            token_ids(wrong, 10)
    with pytest.raises(ValueError, match="the prompt is empty"):
        token_ids([], 10)
    for outside in (-1, 10, 2**32 + 1):
        with pytest.raises(ValueError, match=f"token id {outside}: ids run from 0 to 9"):
            token_ids([1, outside], 10)
