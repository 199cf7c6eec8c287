"""Which lengths a decode step reads, and which tokens a prompt is said to hold."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.inference.programs import mark_prompts, read_lengths
from moe_jax.inference.prompt_batches import PromptBatch
from moe_jax.inference.sampling import Held


@pytest.mark.parametrize(
    ("context", "lengths"),
    [
        (2, (2,)),
        (1020, (1020,)),
        (1024, (256, 1024)),
        (5001, (313, 1251, 5001)),
        (131072, (512, 2048, 8192, 32768, 131072)),
    ],
)
def test_few_lengths_are_read_and_the_last_is_all(context, lengths):
    assert read_lengths(context) == lengths


def test_a_prompt_takes_a_slot_without_padding_or_what_was_generated_there():
    batch = PromptBatch(
        tokens=jnp.array([[[3, 1, 0, 0], [2, 0, 0, 0]]], jnp.int32),
        lengths=jnp.array([[2, 1]], jnp.int32),
        # The second is padding itself: it goes nowhere.
        rows=jnp.array([[1, 2]], jnp.int32),
    )
    earlier = jnp.array([[True, False, False, False], [True, True, True, True]])
    counts = jnp.array([[0, 2, 0, 1], [5, 0, 0, 1]], jnp.int32)
    marked, held = mark_prompts(batch, Held(earlier, counts))
    np.testing.assert_array_equal(marked[0], [[0, 1, 0, 1], [0, 0, 1, 0]])
    # The other slot keeps what it holds.
    np.testing.assert_array_equal(held.prompt_bv, [[1, 0, 0, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(held.counts_bv, [[0, 2, 0, 1], [0, 0, 0, 0]])
