"""From a body's JSON to parameters: what is taken, what is left out, what is refused."""

import json

import pytest

from moe_jax.serve.errors import ApiError
from moe_jax.serve.parameters import (
    IGNORED,
    NEUTRAL,
    ChatParameters,
    CompletionParameters,
    parse,
)

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def completion(**more) -> CompletionParameters:
    return parse(json.dumps({"model": "m", "prompt": "a"} | more).encode(), CompletionParameters)


def chat(**more) -> ChatParameters:
    return parse(json.dumps(CHAT | more).encode(), ChatParameters)


def test_null_means_not_given():
    assert completion(temperature=None, stop=None, seed=None, tools=None) == completion()
    message = {"role": "assistant", "content": "hi", "name": None, "refusal": None}
    assert chat(messages=[message]).messages[0].text == "hi"


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ("", [""]),
        ([[]], [[]]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_several(given, prompts):
    assert completion(prompt=given).prompt == prompts


@pytest.mark.parametrize("given", [[], [1, "a"], [[1], "a"], [True], [1.5], {"a": 1}, 3])
def test_what_is_no_prompt_is_refused(given):
    with pytest.raises(ApiError, match="must be a string, a list of strings, token ids") as caught:
        completion(prompt=given)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_stop_strings_are_one_or_several():
    assert completion().stops == ()
    assert completion(stop="END").stops == ("END",)
    assert completion(stop=["a", "b"]).stops == ("a", "b")


def test_biases_are_of_token_ids_and_keep_their_order():
    assert list(completion(logit_bias={"97": 2, "5": -0.5}).logit_bias.items()) == [
        (97, 2.0),
        (5, -0.5),
    ]


def test_both_kinds_say_how_many_alternatives_they_want():
    assert (completion().wants_logprobs, completion().alternatives) == (False, 0)
    assert (completion(logprobs=0).wants_logprobs, completion(logprobs=0).alternatives) == (True, 0)
    assert completion(logprobs=3).alternatives == 3
    asks = chat(logprobs=True, top_logprobs=7)
    assert (asks.wants_logprobs, asks.alternatives) == (True, 7)


def test_content_in_parts_is_one_text():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "hello"


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_no_answer_depends_on_is_ignored(name):
    assert completion(**{name: "whatever"}) == completion()


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_is_not_supported_may_say_that_it_is_not_wanted(name):
    for value in NEUTRAL[name]:
        assert chat(**{name: value}) == chat()
    with pytest.raises(ApiError, match=f"^{name} is not supported: remove it") as caught:
        chat(**{name: "something else"})
    assert caught.value.param == name


def test_what_there_is_not_is_refused_by_name():
    with pytest.raises(ApiError, match=r"^beam_width is no parameter of this request") as caught:
        completion(beam_width=3)
    assert caught.value.param == "beam_width"
    # Each kind has its own.
    with pytest.raises(ApiError, match="echo is no parameter"):
        chat(echo=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is no valid JSON"),
        (b"[1]", "the body must be a JSON object"),
        (rb'{"model": "m", "prompt": "\ud800"}', "the body is no valid JSON"),
        (b"[" * 100_000, "the body is no valid JSON"),
    ],
)
def test_a_body_is_a_json_object_of_whole_characters(body, message):
    with pytest.raises(ApiError, match=message):
        parse(body, CompletionParameters)


def test_a_pair_of_halves_is_a_character():
    body = rb'{"model": "m", "prompt": "\ud83d\ude00"}'
    assert parse(body, CompletionParameters).prompt == ["\U0001f600"]
