"""Numbers that travel in spare rows arrive exactly, and are finite on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.exchange.beside import parts_of, read_beside, spare_rows, write_beside

GROUPS, PLACES, NUMBERS, WIDTH = 2, 5, 3, 8


def numbers() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(GROUPS, PLACES, NUMBERS)).astype(np.float32)
    values[0, 0] = [0.0, 1.0, 255.0]
    values[1, 0] = [np.float32(1 / 3), np.nextafter(np.float32(1), np.float32(0)), -1e-30]
    return values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read_exactly(dtype):
    spare = spare_rows(PLACES, NUMBERS, WIDTH, dtype)
    assert spare == {"float32": 2, "bfloat16": 6}[dtype]
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(GROUPS, PLACES + spare, WIDTH)), dtype)

    @jax.jit
    def both(rows, values):
        written = write_beside(rows, values)
        return written, read_beside(written, PLACES, NUMBERS)

    written, read = both(rows, numbers())
    np.testing.assert_array_equal(read, numbers())
    np.testing.assert_array_equal(written[:, :PLACES], rows[:, :PLACES])
    assert written.dtype == dtype
    assert jnp.isfinite(written).all()


def test_a_number_is_one_float32_or_three_bfloat16():
    assert (parts_of("float32"), parts_of("bfloat16")) == (1, 3)
