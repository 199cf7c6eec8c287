"""What is looked at of a training step before it is timed."""

from collections.abc import Callable
from typing import Any


def two_steps(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the first step's loss and gradient norm, and how far it made the loss fall: [1] each.

    AdamW's first step moves every parameter by its gradient's sign, so the fall says whether all
    gradients point where they should.

    Args:
        call: makes a step and returns "loss" and "grad_norm", scalars of any framework.
    """
    first, second = call(), call()
    fall = first["loss"] - second["loss"]
    return {name: value.reshape(1) for name, value in {**first, "fall": fall}.items()}
