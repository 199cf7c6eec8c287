"""A model of Hugging Face on 8 emulated devices, asked in every way, against transformers.

Sampling, batching and the engine have tests of their own; which mesh is chosen is in
test_inference_config.py, where models come from in test_loading.py.
"""

import itertools

import jax
import numpy as np
import pytest
from support.hf.tiny_hf import their_greedy, their_logits, write_mixtral

import moe_jax
from moe_jax.inference.sampling_options import SamplingOptions, sample_options

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

PROMPTS = ["def add(a, b):", "Write", "numbers. " * 6]
CHAT = [{"role": "user", "content": "Add two numbers"}]
COUNT = 24


@pytest.fixture(scope="module", autouse=True)
def started():
    """Models are spread over the devices that JAX has started with."""
    assert jax.device_count() == 8


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mixtral"
    return path, write_mixtral(path)


@pytest.fixture(scope="module")
def model(theirs):
    return moe_jax.load(theirs[0])


@pytest.fixture(scope="module")
def greedy(model, theirs):
    """The text that transformers continues each prompt with, and its tokens."""
    found = {}
    for prompt in PROMPTS:
        tokens = their_greedy(theirs[1], model.tokenizer.encode_prompt(prompt), COUNT)
        found[prompt] = (model.tokenizer.decode(tokens), tokens)
    return found


def test_experts_are_spread_over_the_devices_at_hand(model):
    mesh = model.config.mesh
    assert (mesh.expert, mesh.data) == (4, 2)


def test_greedy_texts_are_those_of_transformers(model, greedy):
    got = model.generate(PROMPTS, max_tokens=COUNT, temperature=0)
    assert got == [greedy[prompt][0] for prompt in PROMPTS]
    assert len(set(greedy[PROMPTS[0]][1])) > 8


def test_a_prompt_may_be_tokens_and_one_alone_gives_one_text(model, greedy):
    tokens = model.tokenizer.encode_prompt(PROMPTS[0])
    for prompt in (PROMPTS[0], tokens, tokens.tolist()):
        assert model.generate(prompt, max_tokens=COUNT, temperature=0) == greedy[PROMPTS[0]][0]


def test_streamed_pieces_make_the_text(model, greedy):
    pieces = list(model.generate(PROMPTS[0], max_tokens=COUNT, temperature=0, stream=True))
    assert "".join(pieces) == greedy[PROMPTS[0]][0]
    assert len(pieces) > 4
    with pytest.raises(ValueError, match="stream=True gives one text"):
        model.generate(PROMPTS, stream=True)


def test_who_stops_listening_gives_the_slots_back(model, greedy):
    stream = model.generate(PROMPTS[0], max_tokens=COUNT, temperature=0, stream=True)
    next(stream)
    stream.close()
    engine = model._engine
    assert engine.idle == engine.slots
    assert model.generate(PROMPTS[0], max_tokens=COUNT, temperature=0) == greedy[PROMPTS[0]][0]
    assert model._engine is engine


def test_stop_strings_end_the_text(model, greedy):
    text = greedy[PROMPTS[0]][0]
    stop = text[6:9]
    cut = text[: text.index(stop)]
    assert model.generate(PROMPTS[0], max_tokens=COUNT, temperature=0, stop=stop) == cut


def test_a_context_that_was_asked_for_is_a_limit(model, greedy):
    size = model.tokenizer.encode_prompt(PROMPTS[0]).size
    options = SamplingOptions(temperature=0)
    request = model.request(PROMPTS[0], max_tokens=COUNT, sampling=options)
    (found,) = model.complete([request], context=size + 5)
    assert (list(found.tokens), found.finish) == (greedy[PROMPTS[0]][1][:5], "length")


def test_alternatives_come_with_each_token_where_a_request_asks(model, greedy):
    options = [SamplingOptions(temperature=0, top_logprobs=count) for count in (2, 0)]
    requests = [model.request(PROMPTS[0], max_tokens=5, sampling=one) for one in options]
    asked, unasked = model.complete(requests)
    assert [len(alternatives) for alternatives in asked.alternatives] == [2] * 5
    likeliest = tuple(zip(asked.tokens, asked.logprobs, strict=True))
    found = tuple(alternatives[0] for alternatives in asked.alternatives)
    assert [token for token, _ in found] == greedy[PROMPTS[0]][1][:5]
    np.testing.assert_allclose(found, likeliest, rtol=1e-6)
    assert unasked.alternatives == ((),) * 5


def test_chat_continues_what_the_template_writes(model):
    prompt = model.tokenizer.chat.render(CHAT)
    assert prompt.endswith("<|im_start|>assistant\n")
    want = model.generate(model.tokenizer.encode(prompt), max_tokens=8, temperature=0)
    assert model.chat(CHAT, max_tokens=8, temperature=0) == want


def test_samples_depend_on_their_seed_alone(model):
    options = sample_options(SamplingOptions(temperature=1.0, seed=5), 3)
    requests = [model.request("def", max_tokens=8, sampling=one) for one in options]
    texts = [found.text for found in model.complete(requests)]
    assert len(set(texts)) == 3
    for text, one in zip(texts, options, strict=True):
        assert model.generate("def", max_tokens=8, temperature=1.0, seed=one.seed) == text


def test_logits_and_scores_are_those_of_transformers(model, theirs):
    tokens = np.random.default_rng(0).integers(5, 300, (3, 70)).astype(np.int32)
    want = their_logits(theirs[1], tokens)
    np.testing.assert_allclose(model.logits(tokens), want, atol=1e-4)
    np.testing.assert_allclose(model.logits(tokens[0, :9]), want[0, :9], atol=1e-4)

    text = PROMPTS[2]
    same = model.tokenizer.encode_prompt(text)
    np.testing.assert_array_equal(model.logits(text), model.logits(same))
    score = model.score(text)
    (logits,) = their_logits(theirs[1], np.array(score.tokens)).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nll = [-logprobs[i, token] for i, token in enumerate(score.tokens[1:])]
    assert score.tokens == tuple(model.tokenizer.encode_prompt(text))
    np.testing.assert_allclose(-np.array(score.logprobs), nll, atol=1e-4)
    np.testing.assert_allclose(score.perplexity, np.exp(np.mean(nll)), rtol=1e-4)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.generate("a", max_tokens=0), r"max_tokens \(0\) must be 1 or more"),
        (lambda m: m.generate("a", temperature=-1), r"temperature \(-1\) must be"),
        (lambda m: m.generate("a" * 999, context=128), r"the context is 128"),
        (lambda m: m.generate([5, 999]), "token id 999"),
        (lambda m: m.generate("a", stop=""), "empty string"),
        (lambda m: m.generate("a", logit_bias={99999: 1.0}), "logit_bias holds the token id 99999"),
        (lambda m: m.score([5]), "fewer than 2 tokens"),
        (lambda m: m.chat([]), "at least one message"),
    ],
)
def test_a_mistake_is_named_before_anything_is_generated(model, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(model)


def test_two_streams_at_a_time_do_not_disturb_each_other(model, greedy):
    streams = [
        model.generate(prompt, max_tokens=COUNT, temperature=0, stream=True)
        for prompt in PROMPTS[:2]
    ]
    parts = list(itertools.zip_longest(*streams, fillvalue=""))
    assert ["".join(part) for part in zip(*parts, strict=True)] == [
        greedy[prompt][0] for prompt in PROMPTS[:2]
    ]
