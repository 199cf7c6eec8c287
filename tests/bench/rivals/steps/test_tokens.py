"""Tokens of a step: one more than the sequence is long, inside the vocabulary, always the same."""

import numpy as np

from moe_jax.bench.rivals.steps.problem import step_config
from moe_jax.bench.rivals.steps.tokens import random_tokens


def test_targets_are_one_further_on():
    config = step_config("tiny", 1, 3, 16, "float32")
    tokens = random_tokens(config)
    assert tokens.shape == (3, 17)
    assert 0 <= tokens.min() < tokens.max() < config.model.vocab_size
    np.testing.assert_array_equal(tokens, random_tokens(config))
