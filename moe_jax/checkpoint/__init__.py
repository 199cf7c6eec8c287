"""Checkpoints: asynchronous, atomic, verified, independent of mesh and process count.

The only part of the package that imports orbax.
"""

from moe_jax.checkpoint.checkpoints import Checkpoints, Restored
from moe_jax.checkpoint.contents import Contents, StoredArray, locate, read_contents
from moe_jax.checkpoint.directory import Listing, Rejected, scan
from moe_jax.checkpoint.errors import CheckpointError
from moe_jax.checkpoint.preemption import watch_preemption

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Contents",
    "Listing",
    "Rejected",
    "Restored",
    "StoredArray",
    "locate",
    "read_contents",
    "scan",
    "watch_preemption",
]
