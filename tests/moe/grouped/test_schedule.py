"""Tiles cover every row once or twice by the same group, and nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.grouped.schedule import row_tiles


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (1000, [300, 300, 300]),
        (1000, [0, 1000, 0]),
        (256, [128, 128]),
        (500, [1, 2, 3, 127, 128, 129]),
        (100, [0, 0]),
        (77, [77]),
        (0, [0, 0]),
    ],
)
def test_tiles_cover_all_rows(rows, sizes):
    tiles = row_tiles(jnp.asarray(sizes, jnp.int32), rows, 128)
    count = int(tiles.count[0])
    assert count <= len(tiles.group_t)
    sizes = [*sizes, rows - sum(sizes)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    seen = np.zeros(rows, int)
    listed = zip(*(np.asarray(field)[:count] for field in tiles[:3]), strict=True)
    for group, start, held in listed:
        assert held == min(sizes[group], 128)
        assert (owner[start : start + held] == group).all()
        seen[start : start + held] += 1
    assert ((seen == 1) | (seen == 2)).all()
    assert count == sum(-(-size // 128) for size in sizes)
