from itertools import permutations

import ml_dtypes
import numpy as np
import pytest

from moe_jax.interop.tensors.tiles import TILE, copy_tiled

SHAPE = (2 * TILE + 3, 5, TILE + 1)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_every_element_arrives_whichever_way_arrays_lie(order, dtype):
    source = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE).transpose(order)
    target = np.zeros(source.shape, dtype)
    copy_tiled(target, source)
    np.testing.assert_array_equal(target, source.astype(dtype))
    other_way = np.zeros(SHAPE, dtype)
    copy_tiled(other_way.transpose(order), source)
    np.testing.assert_array_equal(other_way.transpose(order), source.astype(dtype))


@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (1, 9), (9, 1)])
def test_small_shapes(shape):
    source = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
    target = np.full(shape, -1, np.int32)
    copy_tiled(target, source)
    np.testing.assert_array_equal(target, source)


def test_other_shapes_are_a_bug():
    with pytest.raises(AssertionError, match=r"\(3,\) copied to \(2,\)"):
        copy_tiled(np.zeros(2), np.zeros(3))
