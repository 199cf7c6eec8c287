"""What the Hopper kernels cost, for XLA's scheduler and the planner."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

from jax import ShapeDtypeStruct
from jaxtyping import Array

from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.hardware.rates import rates_for
from moe_jax.mesh.kernel_cost import KernelCost, told

KIND = "matmul_grouped"
#: Of every Hopper GPU: an H200 differs in memory, which seldom matters here.
RATES = rates_for(gpu_by_name("h100"))


def cost_told(
    flops: int,
    operands: Sequence[Array | ShapeDtypeStruct],
    results: Sequence[ShapeDtypeStruct],
) -> AbstractContextManager[None]:
    """Tell the cost of the one kernel that is called inside, as if every row were somebody's.

    How many are is not known before it runs; rows of nobody are skipped then.

    Args:
        flops: of all rows.
        operands: what it reads.
        results: what it writes.
    """
    nbytes = sum(math.prod(a.shape) * a.dtype.itemsize for a in (*operands, *results))
    return told(KernelCost(KIND, flops), RATES.grouped_s(flops, nbytes), len(results))
