"""What a caller gives a model: names of options, tokens, lengths."""

import re

import numpy as np
import pytest
from support.places import ROOT

from moe_jax.errors import UserError
from moe_jax.inference.checks import (
    Lengths,
    check_answer,
    check_bias,
    check_context,
    check_fits,
    check_options,
    check_scorable,
    is_one,
    token_ids,
)
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


def test_integers_of_any_length_are_integers():
    for tokens, outside in (([1, 2**70], 2**70), ([-1, 2**63], -1), ([2**64 - 1], 2**64 - 1)):
        with pytest.raises(UserError, match=f"^the prompt holds the token id {outside}: ids run"):
            token_ids(tokens, 10)


def test_a_prompt_fits_if_one_token_can_follow():
    check_fits(15, 16)
    for length in (16, 17):
        with pytest.raises(UserError, match=f"has {length} tokens .* to 15 tokens or fewer$"):
            check_fits(length, 16)


def test_a_context_holds_a_prompt_and_a_token():
    check_context(2)
    with pytest.raises(UserError, match=r"^context \(1\) must hold a prompt and a token: 2 or mo"):
        check_context(1)


@pytest.mark.parametrize(("most", "room"), [(100, 6), (5, 5)])
def test_an_answer_of_a_promised_length_is_never_cut(most, room):
    check_answer(room, 10, 16, most)
    with pytest.raises(UserError, match=rf"max_tokens \({room + 1}\) after .* ask for {room} or f"):
        check_answer(room + 1, 10, 16, most)


def test_a_bias_is_of_tokens_of_the_vocabulary():
    check_bias(SamplingOptions(), 10)
    check_bias(SamplingOptions(logit_bias={0: 1.0, 9: -1.0}), 10)
    with pytest.raises(UserError, match=r"^logit_bias holds the token id 10: ids run from 0 to 9$"):
        check_bias(SamplingOptions(logit_bias={3: 1.0, 10: 1.0}), 10)


def test_a_text_of_one_token_has_nothing_to_score():
    check_scorable(np.ones(2, np.int32))
    with pytest.raises(UserError, match="fewer than 2 tokens"):
        check_scorable(np.ones(1, np.int32))


@pytest.mark.parametrize(
    "words", ["the prompt is empty", "ids run from", "tokens and the context is", "must hold a pro"]
)
def test_a_rule_of_prompts_is_worded_in_one_place(words):
    places = [path for path in (ROOT / "moe_jax").rglob("*.py") if words in path.read_text()]
    assert [path.name for path in places] == ["checks.py"]


def test_requests_are_made_where_prompts_are_checked():
    made = re.compile(r"\b(GenerationRequest|Prompt)\(")
    places = {
        path.relative_to(ROOT / "moe_jax").as_posix()
        for path in (ROOT / "moe_jax").rglob("*.py")
        if made.search(re.sub(r"class \w+\([^)]*\)", "", path.read_text()))
    }
    doors = {"inference/language_model.py", "serve/request.py", "bench/decode/full_forward.py"}
    # Zeros and random tokens of right lengths, and the copy of a checked prompt.
    own = {"serve/assemble.py", "bench/decode/ways.py", "inference/multihost.py"}
    assert places == doors | own
