"""Prompts that start together: their slots, the waves they are read in, the arrays of a wave."""

import numpy as np
import pytest

from moe_jax.inference import prompt_batches
from moe_jax.inference.contract import Prompt
from moe_jax.inference.prompt_batches import SlotLayout, pack, padded, place, waves
from moe_jax.inference.sampling_options import SamplingOptions

SLOTS = SlotLayout(shards=2, per_shard=4, context=40, unit=1, streams=2)


def prompts(*sizes: int) -> list[Prompt]:
    return [
        Prompt(np.full(size, n + 1, np.int32), SamplingOptions(seed=n))
        for n, size in enumerate(sizes)
    ]


def placed(*sizes: int, used: tuple[int, ...] = ()):
    taken = np.zeros(8, bool)
    taken[list(used)] = True
    return place(prompts(*sizes), taken, SLOTS)


def test_prompts_go_where_most_slots_are_free():
    assert [one.slot for one in placed(1, 1, 1)] == [0, 4, 1]
    assert [one.slot for one in placed(1, 1, 1, used=(0, 1))] == [4, 5, 2]


def test_a_device_reads_one_prompt_or_all_that_it_has_tokens_for(monkeypatch):
    one = waves(placed(3, 5), SLOTS)
    assert [[len(queue) for queue in wave] for wave in one] == [[1, 1]]
    several = waves(placed(*[3] * 7), SLOTS)
    assert [[len(queue) for queue in wave] for wave in several] == [[4, 3]]
    monkeypatch.setattr(prompt_batches, "TOKENS_AT_A_TIME", 33)
    several = waves(placed(*[3] * 7), SLOTS)
    assert [[len(queue) for queue in wave] for wave in several] == [[2, 2], [2, 1]]


@pytest.mark.parametrize(
    ("size", "unit", "length"), [(1, 1, 16), (17, 1, 32), (33, 1, 40), (39, 3, 42), (16, 3, 18)]
)
def test_padded_lengths_are_few(size, unit, length):
    slots = SlotLayout(shards=1, per_shard=1, context=40, unit=unit, streams=1)
    assert padded(size, slots) == length


def test_rows_of_a_packed_wave_belong_to_their_devices():
    (wave,) = waves(placed(3, 5, 2, 7), SLOTS)
    packed = pack(wave, SLOTS)
    # Two streams of 2 devices x 2 rows, 4 being what a device may read.
    assert packed.batch.tokens.shape == (2, 4, 16)
    assert len(packed.places) == 4
    flat = packed.batch.tokens.reshape(8, 16)
    for row, one in packed.places:
        device = row % 4 // 2
        assert device == one.slot // SLOTS.per_shard
        assert packed.batch.rows.reshape(-1)[row] == one.slot % SLOTS.per_shard
        assert packed.batch.lengths.reshape(-1)[row] == one.size
        np.testing.assert_array_equal(flat[row, : one.size], one.prompt.tokens)
        assert not flat[row, one.size :].any()
        assert packed.sampling[row] is one.prompt.sampling
    others = set(range(8)) - {row for row, _ in packed.places}
    assert (packed.batch.rows.reshape(-1)[list(others)] == SLOTS.per_shard).all()
