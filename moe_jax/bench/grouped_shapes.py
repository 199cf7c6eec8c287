"""Shapes and sizes of groups that `grouped.py` and `grouped_torch.py` time."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shape:
    """A layer's experts: `groups` of d x f (gated), and the rows that reach them."""

    groups: int
    d: int
    f: int
    rows: int

    @property
    def tflop(self) -> float:
        """Of one of the MLP's three products; a backward pass has six."""
        return 2 * self.rows * self.d * self.f / 1e12


SHAPES = {
    "olmoe": Shape(64, 2048, 1024, 131072),
    "qwen3": Shape(128, 2048, 768, 131072),
    "paper": Shape(2, 4096, 16384, 40000),
    "tiny": Shape(4, 256, 128, 1000),
}
ROUTINGS = ("balanced", "random", "skewed")


def group_sizes(shape: Shape, routing: str, seed: int = 0) -> np.ndarray:
    """int32 [groups] that sum to the shape's rows; "skewed" has one group of 4 times the mean."""
    rng = np.random.default_rng(seed)
    if routing == "balanced":
        return np.diff(np.arange(shape.groups + 1) * shape.rows // shape.groups).astype(np.int32)
    sizes = np.zeros(shape.groups, np.int64)
    left, others = shape.rows, shape.groups
    if routing == "skewed":
        hot = others // 2
        sizes[hot] = min(4, (shape.groups + 1) / 2) * shape.rows // shape.groups
        left, others = left - sizes[hot], others - 1
    drawn = rng.multinomial(left, np.full(others, 1 / others))
    sizes[sizes == 0] = drawn
    return sizes.astype(np.int32)
