"""Logits, logprobs and losses of whole texts on 8 devices are those of one device."""

import jax
import numpy as np
import pytest
from support.model_cases import arrays
from support.serving.engine_cases import EXPERT_8, next_logits, prompt, session

from moe_jax.inference.forward import Forward


@pytest.fixture(scope="module")
def forward():
    model = session(*EXPERT_8)
    skeleton = model.skeleton
    return Forward(model, jax.device_put(arrays(skeleton), skeleton.shardings(model.mesh)))


@pytest.fixture(scope="module")
def tokens():
    return np.stack([prompt(9, seed=seed).tokens for seed in range(3)])


@pytest.fixture(scope="module")
def logits(forward, tokens):
    return forward.logits(tokens)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_logits_are_those_of_one_device_at_every_place(logits, tokens):
    # 3 texts for 8 rows, 9 tokens for 64: nothing of the padding shows.
    assert logits.shape == (3, 9, 32)
    assert logits.dtype == np.float32
    for row, place in ((0, 0), (1, 4), (2, 8)):
        want = next_logits(tokens[row, : place + 1].tolist())
        np.testing.assert_allclose(logits[row, place], want, atol=1e-5)


def test_what_comes_later_does_not_change_what_comes_before(forward, logits, tokens):
    np.testing.assert_allclose(forward.logits(tokens[:, :5]), logits[:, :5], atol=1e-5)


def test_logprobs_are_of_each_token_given_those_before_it(forward, logits, tokens):
    want = np.take_along_axis(log_softmax(logits)[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(forward.logprobs(tokens), want, atol=1e-5)


def test_a_loss_counts_targets_by_their_weight(forward, tokens):
    targets = np.roll(tokens, -1, axis=1)
    weights = np.zeros(tokens.shape, np.float32)
    weights[0, 2], weights[2, 5] = 1.0, 0.5
    logprobs = forward.logprobs(tokens)
    want = -(logprobs[0, 2] + 0.5 * logprobs[2, 5])
    assert forward.loss(tokens, targets, weights) == pytest.approx(want, abs=1e-4)


def test_as_many_texts_are_read_at_a_time_as_devices_share(forward):
    assert forward.rows == 8
