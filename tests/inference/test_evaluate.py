"""Perplexity against transformers, by the loop of Hugging Face's guide to fixed-length models."""

import math

import jax
import numpy as np
import pytest
from support.hf.tiny_hf import write_mixtral

import moe_jax
from moe_jax.inference.evaluate import Evaluation, ScoredWindow, evaluate, windows

CONTEXT = 32
TEXTS = [
    "Write a function that adds two numbers. " * 9,
    "def add(a, b): return a + b",
    "straße 日本語 " * 7,
]


@pytest.fixture(scope="module", autouse=True)
def started():
    """Models are spread over the devices that JAX has started with."""
    assert jax.device_count() == 8


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("models") / "mixtral"
    theirs = write_mixtral(path, initializer_range=0.1)
    return moe_jax.load(path), theirs


def by_the_guide(model, tokens, stride):
    """The guide's loop: returns the sum of negative log likelihoods and the tokens it is over."""
    import torch

    ids, previous, nll, count = torch.tensor(tokens.tolist())[None], 0, 0.0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + CONTEXT, ids.shape[1])
        targets = ids[:, begin:end].clone()
        targets[:, : -(end - previous)] = -100
        valid = int((targets[:, 1:] != -100).sum())
        if valid:
            with torch.no_grad():
                nll += float(model(ids[:, begin:end], labels=targets).loss) * valid
        count, previous = count + valid, end
        if end == ids.shape[1]:
            break
    return nll, count


@pytest.mark.slow
@pytest.mark.parametrize("stride", [5, 16, CONTEXT])
def test_perplexity_is_that_of_the_guide(pair, stride):
    ours, theirs = pair
    found = evaluate(ours, TEXTS, context=CONTEXT, stride=stride)
    sums = [by_the_guide(theirs, ours.tokenizer.encode_prompt(t), stride) for t in TEXTS]
    nll, count = (sum(column) for column in zip(*sums, strict=True))
    assert (found.texts, found.tokens) == (3, count)
    np.testing.assert_allclose(found.nll, nll, rtol=1e-5)
    np.testing.assert_allclose(found.perplexity, math.exp(nll / count), rtol=1e-4)
    size = sum(len(text.encode()) for text in TEXTS)
    np.testing.assert_allclose(found.bits_per_byte, nll / math.log(2) / size, rtol=1e-4)


@pytest.mark.slow
def test_more_past_helps_and_every_token_is_scored_once(pair):
    ours, _ = pair
    size = ours.tokenizer.encode_prompt(TEXTS[0]).size
    reports = []
    found = evaluate(ours, TEXTS[:1], context=CONTEXT, stride=8, report=reports.append)
    assert found.tokens == size - 1
    assert reports[-1] == found
    assert len(reports) > 1
    whole = ours.score(TEXTS[0])
    assert evaluate(ours, TEXTS[1:2], context=CONTEXT, stride=8).tokens == len(
        ours.score(TEXTS[1]).logprobs
    )
    assert found.tokens == len(whole.logprobs)


def test_windows_overlap_and_share_nothing_that_they_score():
    assert windows(10, 4, 2) == [
        ScoredWindow(0, 4, 1),
        ScoredWindow(2, 6, 4),
        ScoredWindow(4, 8, 6),
        ScoredWindow(6, 10, 8),
    ]
    assert windows(5, 4, 4) == [ScoredWindow(0, 4, 1), ScoredWindow(4, 5, 5)]
    assert windows(1, 4, 2) == [ScoredWindow(0, 1, 1)]


@pytest.mark.parametrize("length", [2, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("stride", [1, 7, 31])
def test_windows_score_every_token_but_the_first_once(length, stride):
    scored = [i for w in windows(length, 32, stride) for i in range(w.scored, w.end)]
    assert scored == list(range(1, length))
    assert all(w.start < w.scored and w.end - w.start <= 32 for w in windows(length, 32, stride))


def test_figures_follow_from_the_sums():
    found = Evaluation(texts=1, tokens=10, bytes=40, nll=20 * math.log(2))
    assert found.perplexity == pytest.approx(4)
    assert found.bits_per_byte == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("context", "stride", "message"),
    [(1, 1, r"context \(1\)"), (8, 0, r"stride \(0\)"), (8, 9, r"stride \(9\) must be from 1 to")],
)
def test_windows_out_of_range_are_refused(context, stride, message):
    with pytest.raises(ValueError, match=message):
        evaluate(None, ["a"], context=context, stride=stride)
