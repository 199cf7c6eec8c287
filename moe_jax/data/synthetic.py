"""Uniformly random tokens that need no corpus: for benchmarks, and nothing can be learnt from them.

Text that is read from anywhere lives in `sources.py`.
"""

import numpy as np

from moe_jax.data.example import Example, make_example
from moe_jax.errors import UserError


class SyntheticSequences:
    """Sequence `index` is drawn from (seed, stream, index); each is one unbroken document.

    Args:
        vocab_size: ids are uniform in [0, vocab_size).
        sequence_length: tokens per sequence.
        seed: the run's seed.
        stream: tells training (0) from validation (1).
    """

    def __init__(self, vocab_size: int, sequence_length: int, seed: int, stream: int = 0) -> None:
        self.vocab_size = vocab_size
        self.sequence_length = sequence_length
        self.seed = seed
        self.stream = stream

    def example(self, index: int) -> Example:
        """Draw the arrays of a sequence.

        Args:
            index: of the sequence, not negative; the same index gives the same arrays.

        Raises:
            UserError: `index` is negative.
        """
        if index < 0:
            raise UserError(f"sequence index {index} is negative: indices count from 0")
        bits = np.random.PCG64(np.random.SeedSequence((self.seed, self.stream, index)))
        tokens = bits.random_raw(self.sequence_length + 1) % np.uint64(self.vocab_size)
        return make_example(tokens, np.ones(len(tokens), np.int32), "none")

    def fingerprint(self) -> dict[str, str | int]:
        """Return what decides the content of every index; compare with `require_same_data`."""
        return {
            "documents": f"uniform below {self.vocab_size}, stream {self.stream}",
            "tokenizer": "synthetic",
            "sequence_length": self.sequence_length,
            "seed": self.seed,
        }
