"""What a config needs on a cluster that is not there, and how fast it is there.

    from moe_jax.planner import Target, estimate, plan

    plan(config, gpu="h100", hosts=2)       the very program, compiled for absent GPUs and read off
    estimate(config, target)                arithmetic alone, in milliseconds
    search_layouts(config, target)          every mesh, ranked by that arithmetic

The wings, lowest first: `xla` reads what XLA compiled, `compile` has it compiled, `report` holds
the results, `modelled` is the arithmetic, `compiled` turns programs into figures, `planning` makes
the plan; `search`, `claims` and `pictures` use plans. What is exported here is imported when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_jax.planner.api import plan, target_for
    from moe_jax.planner.compile.target import Target
    from moe_jax.planner.modelled.estimate import estimate
    from moe_jax.planner.report.results import Plan
    from moe_jax.planner.search.search import search as search_layouts

__all__ = ["Plan", "Target", "estimate", "plan", "search_layouts", "target_for"]

#: Public name -> module and name there. `search` itself is the name of a wing.
_HOMES = {
    "Plan": ("moe_jax.planner.report.results", "Plan"),
    "Target": ("moe_jax.planner.compile.target", "Target"),
    "estimate": ("moe_jax.planner.modelled.estimate", "estimate"),
    "plan": ("moe_jax.planner.api", "plan"),
    "search_layouts": ("moe_jax.planner.search.search", "search"),
    "target_for": ("moe_jax.planner.api", "target_for"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(importlib.import_module(module), own)


def __dir__() -> list[str]:
    """List what there is, imported or not."""
    return sorted({*globals(), *__all__})
