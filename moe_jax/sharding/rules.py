"""The table from logical dimensions of parameters to mesh axes.

Every parameter names its dimensions logically (`axes=("experts", "embed", "mlp")`); this table
says where each lives. DP, FSDP, TP and EP are rows here, not code elsewhere. How a *function* is
run on shards lives in `spmd.py`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from jax.sharding import PartitionSpec

from moe_jax.mesh.axes import BATCH_AXES, EXPERT, FSDP, TENSOR

#: Logical dimension -> mesh axis, or None for a dimension that is never split.
RULES: Mapping[str, str | None] = MappingProxyType(
    {
        "layers": None,
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


def partition_spec(axes: tuple[str, ...]) -> PartitionSpec:
    """Returns where each dimension of a parameter with these logical `axes` is stored.

    Raises:
        ValueError: for a logical name that the table does not hold.
    """
    unknown = [name for name in axes if name not in RULES]
    if unknown:
        raise ValueError(f"unknown logical axes {unknown}: add a row to RULES or use {list(RULES)}")
    return PartitionSpec(*(RULES[name] for name in axes))


def shard_spec(axes: tuple[str, ...], *, gather_experts: bool = False) -> PartitionSpec:
    """Returns how a layer's computation on batch shards wants the parameter.

    Inside `spmd.on_batch_shards` a parameter is whole, except that experts stay on their devices
    (unless `gather_experts`) and the tensor axis is left to the compiler.
    """
    keep = () if gather_experts else (EXPERT,)
    return PartitionSpec(*(RULES[name] if RULES[name] in keep else None for name in axes))


#: Where activations and batches are split: leading (batch) dimension over all batch axes.
BATCH = PartitionSpec(BATCH_AXES)
