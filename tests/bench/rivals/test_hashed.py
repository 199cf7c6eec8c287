"""Numbers from indices are the same bits in every framework, and spread as they should be."""

import jax
import numpy as np
import pytest

from moe_jax.bench.rivals import hashed
from moe_jax.bench.rivals.hashed import jax_maker, scrambled, seed_of, spread, torch_maker


def by_numpy(name, shape, std):
    bits = scrambled(np.arange(np.prod(shape), dtype=np.int64), seed_of(name))
    return spread(bits.astype(np.float32), np.float32(std)).reshape(shape)


def test_jax_and_torch_make_the_same_bits(monkeypatch):
    monkeypatch.setattr(hashed, "_PART", 100)
    ours = jax.jit(lambda: jax_maker("float32")("up", (7, 30), 0.02))()
    theirs = torch_maker("float32", "cpu")("up", (7, 30), 0.02)
    np.testing.assert_array_equal(ours, theirs.numpy())
    np.testing.assert_allclose(ours, by_numpy("up", (7, 30), 0.02), rtol=1e-6)


def test_rounded_numbers_are_the_same_bits_too():
    ours = jax.jit(lambda: jax_maker("bfloat16")("x", (999,)))()
    theirs = torch_maker("bfloat16", "cpu")("x", (999,))
    np.testing.assert_array_equal(ours.astype("float32"), theirs.float().numpy())


def test_torch_makes_a_slice_of_what_jax_makes_whole(monkeypatch):
    monkeypatch.setattr(hashed, "_PART", 64)
    whole = jax.jit(lambda: jax_maker("float32")("up", (4, 5, 9), 1.0))()
    np.testing.assert_array_equal(whole[2], torch_maker("float32", "cpu")("up", (5, 9), 1.0, 2))


def test_numbers_have_the_spread_that_is_asked_for_and_no_pattern():
    numbers = by_numpy("dy", (200_000,), 0.5)
    assert numbers.mean() == pytest.approx(0, abs=0.005)
    assert numbers.std() == pytest.approx(0.5, rel=0.01)
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(numbers, by_numpy("x", (200_000,), 0.5))[0, 1]) < 0.01
