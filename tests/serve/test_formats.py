"""Answers name tokens as they stand inside a text, so that two of them never share a name."""

import pytest
from support.serving.served import ChattingBytes

from moe_jax.inference.contract import Event
from moe_jax.serve.formats import AnswerChoice, ChatFormat, CompletionFormat
from moe_jax.serve.request import ApiRequest, ServedModel

NAMES = ("</s>", " the", "the", " a")


class Pieces(ChattingBytes):
    """Decodes like Llama's: alone, a token loses its space, and a special one is nothing."""

    def decode(self, ids):
        return "".join(NAMES[i] for i in ids if i).removeprefix(" ")

    def name(self, token):
        return NAMES[token]


@pytest.fixture
def choice():
    choice = AnswerChoice(0)
    likeliest = ((2, -0.5), (1, -2.0), (0, -3.0))
    choice.add(Event(0, " the", (1,), (-2.0,), "", (likeliest,)))
    choice.add(Event(0, " a", (3,), (-1.0,), "length", (likeliest,)))
    return choice


def answer(kind, choice):
    served = ServedModel("m", 0, 16, len(NAMES), Pieces())
    asked = ApiRequest(
        (), ("",), 1, stream=False, include_usage=False, logprobs=True, alternatives=3
    )
    return kind(served, asked).whole([choice])["choices"][0]["logprobs"]


def test_completions(choice):
    found = answer(CompletionFormat, choice)
    assert found["tokens"] == [" the", " a"]
    assert found["text_offset"] == [0, 4]
    shared = {"the": -0.5, " the": -2.0, "</s>": -3.0}
    assert found["top_logprobs"] == [shared, shared | {" a": -1.0}]


def test_chats(choice):
    first, second = answer(ChatFormat, choice)["content"]
    assert (first["token"], bytes(first["bytes"])) == (" the", b" the")
    assert second["token"] == " a"
    assert [one["token"] for one in first["top_logprobs"]] == ["the", " the", "</s>"]
