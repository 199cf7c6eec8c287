"""The table from logical dimensions of parameters to mesh axes, and what a config makes of it.

Every parameter names its dimensions logically (`axes=("experts", "embed", "mlp")`); the table says
where each lives. DP, FSDP, TP, PP and EP are rows here, not code elsewhere. How a *function* is run
on shards lives in `spmd.py`; how a layer gets at what FSDP split, in `params.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jax.sharding import PartitionSpec

from moe_jax.config.schema import ShardingConfig
from moe_jax.mesh.axes import BATCH_AXES, DATA, EXPERT, FSDP, PIPE, TENSOR

#: Logical dimension -> mesh axis, or None for a dimension that is never split.
RULES: Mapping[str, str | None] = MappingProxyType(
    {
        "layers": PIPE,
        "embed": FSDP,
        "heads": TENSOR,
        "kv_heads": TENSOR,
        "head_dim": None,
        "mlp": TENSOR,
        "vocab": TENSOR,
        "experts": EXPERT,
        "router_experts": None,
        "norm": None,
    }
)

#: Where batches and whole sequences are split: leading (batch) dimension over all batch axes.
BATCH = PartitionSpec(BATCH_AXES)

Names = tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Where the parameters of one config live on one mesh."""

    sizes: Mapping[str, int]
    config: ShardingConfig

    def stored(self, axes: Names, shape: tuple[int, ...]) -> PartitionSpec:
        """Returns where each dimension of a parameter is stored.

        Key/value heads that are fewer than the tensor axis are whole everywhere.

        Args:
            axes: its logical dimensions.
            shape: its whole shape.

        Raises:
            ValueError: for a logical name that the table does not hold.
        """
        return _spec([self._names(axes, i, size) for i, size in enumerate(shape)])

    def optimizer(self, axes: Names, shape: tuple[int, ...]) -> PartitionSpec:
        """Returns where a parameter's optimiser state is stored.

        Under `sharding.optimizer = "zero"` its embed dimension is also split over the batch axes
        that hold copies of the parameter, as far as they divide it (ZeRO stage 1, Rajbhandari et
        al., 2020).
        """
        names = [self._names(axes, i, size) for i, size in enumerate(shape)]
        if self.config.optimizer == "zero" and "embed" in axes:
            dim = axes.index("embed")
            used = {name for entry in names for name in entry}
            for axis in (EXPERT, FSDP, DATA):
                wider = (*names[dim], axis)
                if axis not in used and shape[dim] % self._product(wider) == 0:
                    names[dim] = wider
        return _spec(names)

    def gathers(self, axes: Names, *, experts: bool) -> list[tuple[int, Names]]:
        """Returns (dimension, mesh axes) to gather before a layer computes with a parameter.

        Args:
            axes: its logical dimensions.
            experts: whether a device computes all experts instead of its own.
        """
        split = {"embed": self._embed(axes), "experts": (EXPERT,) if experts else ()}
        found = ((i, split.get(name, ())) for i, name in enumerate(axes))
        return [(i, names) for i, names in found if self._product(names) > 1]

    def _names(self, axes: Names, dim: int, size: int) -> Names:
        name = axes[dim]
        if name not in RULES:
            raise ValueError(
                f"unknown logical axis {name!r}: add a row to RULES or use one of {list(RULES)}"
            )
        if name == "embed":
            return self._embed(axes)
        axis = RULES[name]
        if axis is None or (name == "kv_heads" and size % self.sizes[axis]):
            return ()
        return (axis,)

    def _embed(self, axes: Names) -> Names:
        """The dense part may also be split over the expert axis, which otherwise copies it."""
        axis = RULES["embed"]
        assert axis is not None
        over_expert = self.config.dense == "fsdp_expert" and "experts" not in axes
        return (axis, EXPERT) if over_expert else (axis,)

    def _product(self, names: Names) -> int:
        return math.prod(self.sizes[name] for name in names)


def _spec(names: list[Names]) -> PartitionSpec:
    return PartitionSpec(*(entry if len(entry) > 1 else (*entry, None)[0] for entry in names))
