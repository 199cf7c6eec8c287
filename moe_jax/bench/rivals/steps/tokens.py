"""The tokens of a step, the same for all contestants."""

import numpy as np

from moe_jax.config import Config


def random_tokens(config: Config) -> np.ndarray:
    """Return int64 [batch, length + 1]: what is read, and one further on what is to be said.

    Args:
        config: gives the vocabulary and the batch.
    """
    size = (config.train.global_batch, config.data.sequence_length + 1)
    return np.random.default_rng(0).integers(0, config.model.vocab_size, size)
