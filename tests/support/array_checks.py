"""The runtime checker of shape and dtype annotations that `conftest.py` installs for the tests."""

import warnings
from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning

#: Packages whose arrays are checked at every call. Elsewhere annotations name protocols and
#: abstract arrays (specs, shapes, memory maps) that only a static checker can judge.
CHECKED = (
    "moe_jax.sharding",
    "moe_jax.nn",
    "moe_jax.moe",
    "moe_jax.model",
    "moe_jax.training.step",
    "moe_jax.training.state",
)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments and result of `function` at every call, except for constructors.

    JAX builds the dataclasses that are pytrees with shapes, shardings, batched arrays or
    placeholders in the places of arrays; what functions take and return is checked all the same.
    """
    if function.__name__ == "__init__":
        return function
    with warnings.catch_warnings():
        # Flax's own `State` names its keys in a way that beartype finds old-fashioned.
        warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
        return beartype(function)
