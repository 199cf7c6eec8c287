"""Where the tiles of rows lie: computed on the device from the groups' sizes, read by the kernels.

Tiles begin at their group's first row, so no tile holds rows of two groups. A group's last tile is
moved back to end with the group: it computes some rows a second time, to the same bits, and every
tile of a group that has a tile's worth of rows is full.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int


class RowTiles(NamedTuple):
    """Tiles of rows, in order; entries from `count` on mean nothing."""

    #: Whose rows; the number of groups stands for rows of nobody, which become 0.
    group_t: Int[Array, "t"]
    #: First row.
    start_t: Int[Array, "t"]
    #: Rows to write: a whole tile, or all rows of a group that has fewer.
    rows_t: Int[Array, "t"]
    #: How many tiles there are, as an array of one.
    count: Int[Array, "1"]


def row_tiles(sizes_l: Int[Array, "l"], rows: int, tile: int) -> RowTiles:
    """Cut all rows, those of nobody included, into tiles of at most `tile` rows.

    Args:
        sizes_l: rows of each group, in order from row 0.
        rows: rows of the array.
        tile: rows of a tile.

    Returns:
        At most `rows // tile + l + 1` tiles.
    """
    sizes = sizes_l.astype(jnp.int32)
    sizes = jnp.append(sizes, rows - sizes.sum())
    ends = jnp.cumsum(sizes)
    tile_ends = jnp.cumsum((sizes + tile - 1) // tile)
    t = jnp.arange(rows // tile + sizes.shape[0], dtype=jnp.int32)
    group_t = (t[:, None] >= tile_ends[None, :]).sum(1, dtype=jnp.int32)
    group_t = jnp.minimum(group_t, sizes.shape[0] - 1)
    size_t, end_t = sizes[group_t], ends[group_t]
    nth = t - (tile_ends[group_t] - (size_t + tile - 1) // tile)
    start_t = jnp.minimum(end_t - size_t + nth * tile, end_t - tile)
    start_t = jnp.maximum(start_t, end_t - size_t)
    return RowTiles(group_t, start_t, jnp.minimum(size_t, tile), tile_ends[-1:])
