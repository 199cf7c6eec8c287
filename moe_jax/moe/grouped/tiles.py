"""How the Hopper kernels cut their work: one record of sizes, and the table of measured choices.

`moe-jax bench grouped` finds what `TABLE` should say; nothing here computes.
"""

from dataclasses import dataclass
from typing import Literal

#: Which product a choice is for: rows by weights, rows by transposed weights, the gated pair of a
#: hidden layer, and the gradient of the weights.
Product = Literal["rows", "rows_transposed", "gated", "weights"]


@dataclass(frozen=True)
class Tiles:
    """Sizes of one kernel.

    Attributes:
        cols: columns of the output that a block computes at a time (of both halves, if gated).
        stages: loads in flight.
        band: row tiles that share weights while they are in the L2 cache.
    """

    cols: int = 256
    stages: int = 4
    band: int = 4


#: Rows of a tile: two warpgroups of 64.
TILE_ROWS = 128
#: What is contracted at a time: 128 bytes of bfloat16, the width of a swizzled row.
TILE_INNER = 64

#: Weights of one group that stay in the L2 cache, beside rows: 25 MB of bfloat16. Not tuned.
CACHED_WEIGHTS = 12_500_000

#: (product, contracted, columns) -> tiles, as measured; see README.md for where and when.
TABLE: dict[tuple[Product, int, int], Tiles] = {
    # OLMoE
    ("gated", 2048, 1024): Tiles(cols=128),
    ("rows", 1024, 2048): Tiles(),
    ("rows_transposed", 2048, 1024): Tiles(),
    ("rows_transposed", 2048, 2048): Tiles(),
    ("weights", 2048, 1024): Tiles(),
    ("weights", 1024, 2048): Tiles(),
}


def tiles_for(product: Product, inner: int, cols: int) -> Tiles:
    """Return the table's tiles for a product, or the widest that divide its columns.

    Args:
        product: which kernel.
        inner: size that is contracted; for the weights' gradient, its first dim.
        cols: columns of the output; of each half, if gated.
    """
    if tiles := TABLE.get((product, inner, cols)):
        return tiles
    widths = (128, 64) if product == "gated" else (256, 128, 64)
    band = 4 if inner * cols <= CACHED_WEIGHTS else 16
    return Tiles(cols=next(width for width in widths if cols % width == 0), band=band)
