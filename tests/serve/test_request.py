"""What one HTTP request asks for, by the model that is served; prompts are checked once."""

import json

import numpy as np
import pytest
from support.serving.served import BYTES, USER, ChattingBytes, render

from moe_jax.errors import UserError
from moe_jax.inference.sampling_options import SEEDS
from moe_jax.serve import request as module
from moe_jax.serve.errors import ApiError
from moe_jax.serve.parameters import ChatParameters, CompletionParameters, parse
from moe_jax.serve.request import ApiRequest, RequestBuilder, ServedModel

CONTEXT = 32


def builder(tokenizer=BYTES, vocab_size=257, **limits) -> RequestBuilder:
    served = ServedModel("m", 0, CONTEXT, vocab_size, tokenizer)
    return RequestBuilder(served, **{"max_tokens": 20, "max_texts": 8} | limits)


def completion(build=None, **more) -> ApiRequest:
    body = json.dumps({"model": "m", "prompt": "abc"} | more).encode()
    return (build or builder()).completion(parse(body, CompletionParameters))


def chat(build=None, **more) -> ApiRequest:
    body = json.dumps({"model": "m", "messages": [USER]} | more).encode()
    return (build or builder()).chat(parse(body, ChatParameters))


def refusal(ask, **more) -> tuple[int, str | None, str]:
    with pytest.raises(ApiError) as caught:
        ask(**more)
    return caught.value.status, caught.value.param, caught.value.message


def test_each_prompt_has_n_texts_that_differ_by_seed_alone():
    asked = completion(prompt=["abc", "de"], n=2, seed=5, stop="END")
    assert [bytes(one.tokens.tolist()) for one in asked.texts] == [b"abc", b"abc", b"de", b"de"]
    assert [one.sampling.seed for one in asked.texts] == [5, 6, 5, 6]
    assert {(one.stop, one.end_ids) for one in asked.texts} == {(("END",), BYTES.end_ids)}
    assert (asked.prompt_tokens, asked.echoes) == (5, ("",) * 4)
    assert asked.texts[0].tokens.dtype == np.int32


def test_a_signed_seed_is_one_of_64_bits_and_none_is_a_new_one():
    assert [one.sampling.seed for one in completion(seed=-1, n=2).texts] == [SEEDS - 1, 0]
    assert completion().texts[0].sampling.seed != completion().texts[0].sampling.seed


@pytest.mark.parametrize(
    ("ask", "more", "limit"),
    [
        (completion, {}, 16),
        (completion, {"max_tokens": 20}, 20),
        (completion, {"prompt": "x" * 30}, 2),
        # As much as the server lets through, or as fits.
        (chat, {}, CONTEXT - len(render([USER]))),
        (chat, {"max_completion_tokens": 3}, 3),
        (chat, {"max_tokens": 3, "max_completion_tokens": 3}, 3),
    ],
)
def test_how_many_tokens_may_follow(ask, more, limit):
    assert [one.max_tokens for one in ask(**more).texts] == [limit]


@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_is_checked_once_however_many_texts_it_gets(monkeypatch, n):
    calls = []
    for name in ("token_ids", "check_fits", "check_bias"):
        rule = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, name=name, rule=rule: calls.append(name) or rule(*given)
        )
    completion(prompt=[1, 2, 3], n=n)
    assert sorted(calls) == ["check_bias", "check_fits", "token_ids"]


@pytest.mark.parametrize(
    ("ask", "more", "param", "message"),
    [
        (completion, {"prompt": [[]]}, "prompt", "the prompt is empty: give at least one token"),
        (completion, {"prompt": [1, 300]}, "prompt", "token id 300: ids run from 0 to 256"),
        (completion, {"prompt": [2**80]}, "prompt", f"token id {2**80}: ids run"),
        (completion, {"prompt": "x" * 32}, "prompt", "has 32 tokens and the context is 32"),
        (chat, {"messages": [USER | {"content": "x" * 32}]}, "messages", "the context is 32"),
        (completion, {"max_tokens": 21}, "max_tokens", "at most 20: ask for 20 or fewer"),
        (
            completion,
            {"prompt": "x" * 30, "max_tokens": 3},
            "max_tokens",
            "after a prompt of 30 tokens: the context is 32",
        ),
        (completion, {"logit_bias": {"257": 1}}, "logit_bias", "token id 257: ids run from 0"),
        (completion, {"stop": [""]}, "stop", "empty string"),
        (completion, {"top_p": 0}, "top_p", "top_p (0.0) must be"),
        (completion, {"n": 9}, "n", "9 texts (prompts x n) are more"),
        (completion, {"echo": True, "logprobs": 1}, "echo", "echo with logprobs"),
        (chat, {"top_logprobs": 2}, "top_logprobs", "without logprobs"),
        (chat, {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differ"),
        (completion, {"stream_options": {}}, "stream_options", "without stream"),
    ],
)
def test_a_mistake_is_refused_by_the_parameter_that_has_it(ask, more, param, message):
    status, blamed, text = refusal(ask, **more)
    assert (status, blamed) == (400, param)
    assert message in text


def test_a_tokenizer_that_knows_more_than_the_model_is_the_prompts_mistake():
    status, param, text = refusal(completion, build=builder(vocab_size=98), prompt="abc")
    assert (status, param) == (400, "prompt")
    assert "token id 98: ids run from 0 to 97" in text


def test_what_a_template_refuses_is_told():
    class Refusing(ChattingBytes):
        def encode_chat(self, messages, **variables):
            raise UserError("/path/of/template: no") from ValueError("roles must alternate")

    assert refusal(chat, build=builder(Refusing())) == (
        400,
        "messages",
        "messages: roles must alternate",
    )


def test_an_echo_is_the_text_of_the_prompt():
    assert completion(prompt=["abc", "d"], n=2, echo=True).echoes == ("abc", "abc", "d", "d")
    assert completion(prompt=[97, 98], echo=True).echoes == ("ab",)


def test_another_model_is_not_found():
    status, param, text = refusal(completion, model="gpt-4")
    assert (status, param, text) == (
        404,
        "model",
        "there is no model 'gpt-4' here: this server has 'm'",
    )
