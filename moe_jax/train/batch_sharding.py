"""How a step's batch [accumulation, streams, batch, seq] lies on the mesh."""

from jax.sharding import PartitionSpec

from moe_jax.mesh.axes import BATCH_AXES

#: Whole sequences over all batch axes; a slice in accumulation or streams is never resharded.
BATCH_SPEC = PartitionSpec(None, None, BATCH_AXES)
