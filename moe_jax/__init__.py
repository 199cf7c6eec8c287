"""Train, plan and run Mixture-of-Experts transformers in JAX with one expert per device."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_jax.inference.loading import from_hf, load

__all__ = ["from_hf", "load"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: the package alone costs nothing."""
    if name in __all__:
        return getattr(importlib.import_module("moe_jax.inference.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
