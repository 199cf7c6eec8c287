"""How rows reach their experts and return: the moves that a transport provides."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Int

from moe_jax.axes import TENSOR

#: Moves [e, c, ...] to the experts as [l, sources * c, ...], or the other way.
Move = Callable[[Array], Array]


@dataclass(frozen=True)
class Wire:
    """The two moves must be each other's transpose (and, as permutations are, inverse)."""

    to_experts: Move
    to_sources: Move
    #: The maximum over all devices that must act together.
    agree: Callable[[Int[Array, ""]], Int[Array, ""]]


def agreement(axes: tuple[str, ...], tensor: int) -> Callable[[Int[Array, ""]], Int[Array, ""]]:
    """Return the maximum over `axes` and, where experts are split, the tensor axis."""
    together = (*axes, TENSOR) if tensor > 1 else axes
    return lambda rounds: jax.lax.pmax(rounds, together) if together else rounds
