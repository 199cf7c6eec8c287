"""The global batch of a step: its arrays, its shape, and which sequence each row holds.

Row r of step n is sequence n * global_batch + r, whatever the mesh and the number of processes.
Reading rows and placing them on devices is the loader's job.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

from moe_jax.axes import BATCH_AXES
from moe_jax.config.schema import Config
from moe_jax.errors import UserError

#: How a step's arrays [accumulation, streams, batch, seq] lie on the mesh.
BATCH_SPEC = PartitionSpec(None, None, BATCH_AXES)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Arrays of one step, [a accumulation, n streams, b batch, s sequence].

    Fields are those of `Example`, one row per sequence.
    """

    tokens: Int32[Array, "a n b s"]
    targets: Int32[Array, "a n b s"]
    segments: Int32[Array, "a n b s"]
    positions: Int32[Array, "a n b s"]
    weights: Float32[Array, "a n b s"]


def batch_shape(config: Config) -> tuple[int, int, int, int]:
    """Return the shape of a step's arrays.

    Args:
        config: whose `train`, `exchange` and `data` sections decide it.

    Returns:
        (accumulation, streams, sequences per stream and microbatch, sequence length).

    Raises:
        UserError: the global batch does not divide evenly.
    """
    rows, microbatches = config.train.global_batch, config.train.accumulation
    streams = config.exchange.streams
    if rows % (microbatches * streams):
        below = rows // (microbatches * streams) * (microbatches * streams)
        raise UserError(
            f"train.global_batch ({rows}) must be a multiple of train.accumulation x "
            f"exchange.streams ({microbatches} x {streams}): set it to "
            f"{below + microbatches * streams}" + (f" or {below}" if below else "")
        )
    return microbatches, streams, rows // (microbatches * streams), config.data.sequence_length


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """Return the batch of a step as ShapeDtypeStructs with shardings: for compiling."""
    sharding = NamedSharding(mesh, BATCH_SPEC)

    def array(dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(batch_shape(config), dtype, sharding=sharding)

    ids = array(np.int32)
    return Batch(ids, ids, ids, ids, array(np.float32))


def stream_tokens(config: Config) -> int:
    """Return the tokens of one stream and microbatch on one of the devices that share the batch.

    Raises:
        UserError: the global batch does not divide evenly.
    """
    _, _, batch, length = batch_shape(config)
    return batch * length // math.prod(getattr(config.mesh, axis) for axis in BATCH_AXES)


def batch_indices(step: int, config: Config) -> np.ndarray:
    """Return the global sequence index of every row of a step.

    Args:
        step: counted from 0.
        config: of the run.

    Returns:
        int64 [accumulation, streams, batch].

    Raises:
        UserError: `step` is negative.
    """
    if step < 0:
        raise UserError(f"step {step} is negative: steps count from 0")
    rows = config.train.global_batch
    return np.arange(step * rows, (step + 1) * rows).reshape(batch_shape(config)[:3])
