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

from moe_jax.axes import BATCH_AXES, DATA, EXPERT, FSDP, PIPE, TENSOR
from moe_jax.config.schema import ShardingConfig
from moe_jax.errors import UserError

#: Logical dimension -> mesh axis, or None for a dimension that is never split.
RULES: Mapping[str, str | None] = MappingProxyType(
    {
        "layers": PIPE,
        "embed": FSDP,
        "heads": TENSOR,
        "kv_heads": TENSOR,
        "head_dim": None,
        "latent": None,
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
    #: Groups of layers on each device of the pipe axis.
    virtual_stages: int = 1

    def stored(self, axes: Names, shape: tuple[int, ...]) -> PartitionSpec:
        """Return where each dimension of a parameter is stored.

        Key/value heads that are fewer than the tensor axis are whole everywhere. Layers that do
        not fill the pipe axis in order (an uneven number, several groups per device) split their
        embed dimension over it instead; the pipeline hands them out when a step begins.

        Args:
            axes: its logical dimensions.
            shape: its whole shape.

        Raises:
            UserError: for a logical name that the table does not hold.
        """
        return _spec([self._names(axes, shape, dim) for dim in range(len(shape))])

    def optimizer(self, axes: Names, shape: tuple[int, ...]) -> PartitionSpec:
        """Return where a parameter's optimiser state is stored.

        Under `sharding.optimizer = "zero"` its embed dimension is also split over the batch axes
        that hold copies of the parameter, as far as they divide it (ZeRO stage 1, Rajbhandari et
        al., 2020).

        Args:
            axes: its logical dimensions.
            shape: its whole shape.
        """
        names = [self._names(axes, shape, dim) for dim in range(len(shape))]
        if self.config.optimizer == "zero" and "embed" in axes:
            dim = axes.index("embed")
            used = {name for entry in names for name in entry}
            more: set[str] = set()
            for axis in (EXPERT, FSDP, DATA, PIPE):
                wider = (*names[dim], *more, axis)
                if axis not in used and shape[dim] % self.parts(wider) == 0:
                    more.add(axis)
            # In mesh order: XLA makes a reduce-scatter of a gradient's sum and its split only where
            # a device's part follows from its place in the group; else it sums everything.
            names[dim] = (*names[dim], *(axis for axis in BATCH_AXES if axis in more))
        return _spec(names)

    def in_order(self, layers: int) -> bool:
        """Whether so many stacked layers lie on the pipe axis as they are, in equal parts."""
        return self.virtual_stages == 1 and layers % self.sizes[PIPE] == 0

    def parts(self, names: Names) -> int:
        """Return into how many parts these mesh axes split."""
        return math.prod(self.sizes[name] for name in names)

    def _names(self, axes: Names, shape: tuple[int, ...], dim: int) -> Names:
        name, size = axes[dim], shape[dim]
        if name not in RULES:
            raise UserError(
                f"unknown logical axis {name!r}: add a row to RULES or use one of {list(RULES)}"
            )
        axis = RULES[name]
        if axis is None:
            return ()
        if name == "embed":
            return (axis, *self._beside_fsdp(axes, shape))
        if name == "layers" and not self.in_order(size):
            return ()
        if name == "kv_heads" and size % self.sizes[axis]:
            return ()
        return (axis,)

    def _beside_fsdp(self, axes: Names, shape: tuple[int, ...]) -> Names:
        """Return what else splits an embed dimension; pipe last, as the pipeline wants it."""
        over_expert = self.config.dense == "fsdp_expert" and "experts" not in axes
        over_pipe = "layers" in axes and not self.in_order(shape[axes.index("layers")])
        return ((EXPERT,) if over_expert else ()) + ((PIPE,) if over_pipe else ())


def _spec(names: list[Names]) -> PartitionSpec:
    return PartitionSpec(*(entry if len(entry) > 1 else (*entry, None)[0] for entry in names))
