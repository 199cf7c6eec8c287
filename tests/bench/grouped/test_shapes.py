"""Sizes of groups sum to the rows, and are as skewed as they say."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS, SHAPES, group_sizes, random_operands


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_sizes_sum_to_the_rows(name, routing):
    sizes = group_sizes(SHAPES[name], routing)
    assert sizes.dtype == np.int32
    assert (sizes.sum(), len(sizes)) == (SHAPES[name].rows, SHAPES[name].groups)
    assert (sizes == group_sizes(SHAPES[name], routing)).all()


def test_one_group_is_hot():
    shape = SHAPES["qwen3"]
    assert group_sizes(shape, "skewed").max() == 4 * shape.rows // shape.groups


def test_operands_have_unit_products():
    operands = random_operands(SHAPES["tiny"], jnp.float32)
    assert operands["down"].shape == (4, 128, 256)
    assert float((operands["x"] @ operands["up"][0]).std()) == pytest.approx(1, abs=0.1)
