"""Measured tiles are taken where there are any, else ones that divide the columns."""

import pytest

from moe_jax.moe.grouped.tiles import TABLE, TILE_INNER, Tiles, tiles_for


@pytest.mark.parametrize("key", TABLE)
def test_measured_tiles_are_used_and_divide_their_columns(key):
    assert tiles_for(*key) is TABLE[key]
    assert key[2] % TABLE[key].cols == key[1] % TILE_INNER == 0


@pytest.mark.parametrize(
    ("product", "cols", "width"),
    [
        ("rows", 512, 256),
        ("rows", 384, 128),
        ("weights", 320, 64),
        ("gated", 512, 128),
        ("gated", 192, 64),
    ],
)
def test_the_widest_that_divide_the_columns(product, cols, width):
    assert tiles_for(product, 448, cols) == Tiles(cols=width, band=4)


def test_weights_too_large_for_the_cache_are_shared_by_more_rows():
    assert tiles_for("rows", 4096, 16384).band > tiles_for("rows", 4096, 2048).band
