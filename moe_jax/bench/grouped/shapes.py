"""Shapes and sizes of groups that `kernels.py` and `torch_mlp.py` time, and their operands."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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
        """Work of one of the MLP's three products; a backward pass has six."""
        return 2 * self.rows * self.d * self.f / 1e12


SHAPES = {
    "olmoe": Shape(64, 2048, 1024, 131072),
    "qwen3": Shape(128, 2048, 768, 131072),
    "paper": Shape(2, 4096, 16384, 40000),
    "tiny": Shape(4, 256, 128, 1000),
}
ROUTINGS = ("balanced", "random", "skewed")


def group_sizes(shape: Shape, routing: str, seed: int = 0) -> np.ndarray:
    """Draw the groups' sizes.

    Args:
        shape: whose rows they divide.
        routing: "balanced", "random", or "skewed": one group of 4 times the mean, others random.
        seed: of the random ones.

    Returns:
        int32 [groups] that sum to the shape's rows.
    """
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


def random_operands(shape: Shape, dtype: Any = jnp.bfloat16) -> dict[str, jax.Array]:
    """Return rows, gradients and weights, by name, of a scale that products keep."""
    sizes = {
        "x": (shape.rows, shape.d),
        "dy": (shape.rows, shape.d),
        "h": (shape.rows, shape.f),
        "dh": (shape.rows, shape.f),
        "gate": (shape.groups, shape.d, shape.f),
        "up": (shape.groups, shape.d, shape.f),
        "down": (shape.groups, shape.f, shape.d),
    }
    key = jax.random.key(0)
    operands = {}
    for nth, (name, size) in enumerate(sizes.items()):
        scale = size[-2] ** -0.5 if len(size) == 3 else 1.0
        operands[name] = _normal(jax.random.fold_in(key, nth), size, scale, dtype)
    return operands


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _normal(key: jax.Array, size: tuple[int, ...], scale: float, dtype: Any) -> jax.Array:
    return (scale * jax.random.normal(key, size)).astype(dtype)
