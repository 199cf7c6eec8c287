"""Requests that are refused, and what their clients are told."""

import json
import re

import httpx
import openai
import pytest
from support.serving.fake_engine import FakeEngine
from support.serving.served import MODEL, USER, chat, complete, greedy, serving

from moe_jax.data.tokenizers import ByteTokenizer


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine(slots=4, context=128)) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made


@pytest.mark.parametrize(
    ("path", "change", "param", "message"),
    [
        ("", {"prompt": None}, "prompt", "prompt is missing"),
        ("", {"prompt": [1, "a"]}, "prompt", "must be a string"),
        ("", {"prompt": []}, "prompt", "must be a string"),
        ("", {"prompt": [[]]}, "prompt", "the prompt is empty: give at least one token"),
        ("", {"prompt": "x" * 128}, "prompt", "has 128 tokens and the context is 128"),
        ("", {"prompt": [97, 257]}, "prompt", "token id 257: ids run from 0 to 256"),
        ("", {"prompt": [2**40]}, "prompt", "token id 1099511627776: ids run"),
        ("", {"prompt": [-1, 2**80]}, "prompt", "token id -1: ids run"),
        ("", {"max_tokens": 101}, "max_tokens", "at most 100: ask for 100 or fewer"),
        ("", {"prompt": "x" * 120, "max_tokens": 9}, "max_tokens", "ask for 8 or fewer"),
        ("", {"max_tokens": 0}, "max_tokens", r"^max_tokens \(0\) must be 1 or more$"),
        ("", {"temperature": -1}, "temperature", r"temperature \(-1.0\) must be"),
        ("", {"temperature": "hot"}, "temperature", r'^temperature \("hot"\) must be a number$'),
        ("", {"top_p": 0}, "top_p", "top_p"),
        ("", {"n": 200}, "n", "200 texts"),
        (
            "",
            {"stop": ["a"] * 5},
            "stop",
            r"^stop \(\[.*\]\) must be a string or a list of at most 4$",
        ),
        ("", {"stop": ""}, "stop", "empty string"),
        ("", {"logprobs": 6}, "logprobs", r"^logprobs \(6\) must be 5 or less$"),
        ("", {"logprobs": -1}, "logprobs", r"^logprobs \(-1\) must be 0 or more$"),
        ("", {"top_logprobs": 2}, "top_logprobs", "top_logprobs is no parameter"),
        ("", {"logprobs": 0, "echo": True}, "echo", "echo with logprobs"),
        ("", {"best_of": 3}, "best_of", "best_of is not supported: remove it, or set it to 1"),
        # True equals 1 in Python, but not in JSON.
        ("", {"best_of": True}, "best_of", "best_of is not supported: remove it, or set it to 1"),
        ("", {"logit_bias": {"a": 1}}, "logit_bias", "must be an object with token ids"),
        ("", {"logit_bias": {"5 ": 1}}, "logit_bias", "must be an object with token ids"),
        ("", {"logit_bias": {"1_0": 1}}, "logit_bias", "must be an object with token ids"),
        # One token named twice would have the last bias.
        ("", {"logit_bias": {"5": 1, "05": 2}}, "logit_bias", "must be an object with token ids"),
        ("", {"logit_bias": [5]}, "logit_bias", "must be an object with token ids"),
        (
            "",
            {"logit_bias": {"5": "x"}},
            "logit_bias",
            r'^logit_bias\[5\] \("x"\) must be a number',
        ),
        ("", {"logit_bias": {"5": True}}, "logit_bias", "must be a number"),
        (
            "",
            {"logit_bias": {"5": -101}},
            "logit_bias",
            r"\(-101.0 for token 5\) must be from -100",
        ),
        ("", {"logit_bias": {"257": 1}}, "logit_bias", "token id 257: ids run from 0 to 256"),
        (
            "",
            {"logit_bias": {str(token): 1 for token in range(301)}},
            "logit_bias",
            r"^logit_bias \(301 tokens\) must be of at most 300",
        ),
        (
            "",
            {"frequency_penalty": 2.5},
            "frequency_penalty",
            r"^frequency_penalty \(2.5\) must be from -2 to 2",
        ),
        ("", {"presence_penalty": -3}, "presence_penalty", r"\(-3.0\) must be from -2 to 2"),
        ("", {"presence_penalty": "low"}, "presence_penalty", "must be a number"),
        ("", {"suffix": "x"}, "suffix", "not supported"),
        ("", {"beam_width": 3}, "beam_width", "beam_width is no parameter"),
        ("", {"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        (
            "/chat",
            {"messages": []},
            "messages",
            r"^messages \(\[\]\) must be a list of at least 1$",
        ),
        (
            "/chat",
            {"messages": [{"role": "tool", "content": ""}]},
            "messages",
            r"messages\[0\]\.role \(\"tool\"\) must",
        ),
        ("/chat", {"messages": [{"role": "assistant", "content": ""}]}, "messages", "must not be"),
        (
            "/chat",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
            r"messages\[0\]\.content\[0\]\.type \(\"image_url\"\) must be 'text'",
        ),
        ("/chat", {"tools": [{"type": "function"}]}, "tools", "tools is not supported"),
        ("/chat", {"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (
            "/chat",
            {"top_logprobs": 3},
            "top_logprobs",
            r"^top_logprobs \(3\) without logprobs: set logprobs to true$",
        ),
        (
            "/chat",
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            r"^top_logprobs \(21\) must be 20 or less$",
        ),
        ("/chat", {"logprobs": 2}, "logprobs", "must be true or false"),
        ("/chat", {"frequency_penalty": -2.1}, "frequency_penalty", "must be from -2 to 2"),
        ("/chat", {"max_completion_tokens": 4, "max_tokens": 5}, "max_tokens", "differ"),
        ("/chat", {"messages": [{"role": "user"}]}, "messages", r"\[0\]\.content is missing"),
        (
            "/chat",
            {"messages": [USER | {"x": 1}]},
            "messages",
            r"\[0\]\.x is not supported: remove",
        ),
        ("/chat", {"chat_template_kwargs": []}, "chat_template_kwargs", "must be an object"),
        (
            "/chat",
            {"chat_template_kwargs": {"self": 1}},
            "chat_template_kwargs",
            "must be an object without messages and self",
        ),
    ],
)
def test_bad_requests_are_refused_by_name(server, path, change, param, message):
    base = {"messages": [USER]} if path else {"prompt": "abc"}
    answer = server.post(f"/v1{path}/completions", json={"model": MODEL} | base | change)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert re.search(message, error["message"]), error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"\xff", b"[" * 60_000, rb'{"model": "\uD800"}']
)
def test_bodies_that_are_no_json_objects_are_refused(server, body):
    headers = {"content-type": "application/json"}
    answer = server.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert "body" in answer.json()["error"]["message"]


def test_bodies_that_are_too_large_are_refused_however_they_come(server):
    headers = {"content-type": "application/json"}
    pieces = (b" " * 1000 for _ in range(100))
    for content in (b" " * 70_000, pieces):
        answer = server.post("/v1/completions", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            413,
            "invalid_request_error",
        )


def test_what_a_browser_page_may_send_unasked_is_refused(server):
    body = json.dumps({"model": MODEL, "prompt": "a"})
    answer = server.post("/v1/completions", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_a_page_that_rebinds_its_name_to_this_machine_is_refused(server):
    headers = {"host": "evil.example:80"}
    body = {"model": MODEL, "prompt": "a"}
    answer = server.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 403
    assert "not as evil.example" in answer.json()["error"]["message"]
    for name in ("localhost:1", "[::1]:80", "127.0.0.1"):
        answer = server.post("/v1/completions", json=body, headers={"host": name})
        assert answer.status_code == 200
    # Who has the key may come by any name.
    with serving(api_key="key") as keyed:
        headers["authorization"] = "Bearer key"
        assert keyed.post("/v1/completions", json=body, headers=headers).status_code == 200


def test_other_models_and_other_paths_are_not_found(server, client):
    with pytest.raises(openai.NotFoundError) as caught:
        complete(client, model="gpt-4")
    assert caught.value.code == "model_not_found"
    answer = server.post("/v1/embeddings", json={})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        404,
        "POST /v1/embeddings: Not Found",
    )


def test_a_model_without_a_template_has_no_chat():
    with serving(tokenizer=ByteTokenizer()) as server, server.client() as client:
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            chat(client)
        assert complete(client).choices[0].text == greedy("abc", 8)


def test_a_key_is_asked_for_before_anything_is_read():
    with serving(api_key="secret ü") as server:
        with server.client("wrong") as client, pytest.raises(openai.AuthenticationError):
            complete(client)
        big = b" " * 70_000
        assert server.post("/v1/completions", content=big).status_code == 401
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
        for scheme, status in (("Bearer", 200), ("bearer", 200), ("Basic", 401)):
            headers = {"authorization": f"{scheme} secret ü".encode()}
            answer = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert answer.status_code == status, scheme
        assert server.outcomes() == {"unauthorized": 2}


def test_a_mistake_of_the_server_is_told_in_the_same_form_without_details():
    class Broken(ByteTokenizer):
        def encode_prompt(self, text):
            raise KeyError("secret")

    with serving(tokenizer=Broken()) as server:
        answer = server.post("/v1/completions", json={"model": MODEL, "prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert "secret" not in answer.text
        assert server.outcomes() == {"failed": 1}
