"""What a kernel of ours says of its cost: nobody can see into a custom call.

XLA's scheduler counts any custom call as 10 µs, so a kernel of many milliseconds is next to nothing
to hide a collective behind. It believes an attribute instead, `latency_metadata`, in ns
(`GetLatencyFromMetadata` in XLA's latency_hiding_scheduler.cc; jaxlib 0.10.2 has it). Further
attributes, kept in the compiled program, tell the planner what the work is. `pl.CostEstimate` does
neither: Pallas drops it on the way to a GPU (JAX 0.10.2).
"""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jax.experimental.xla_metadata import set_xla_metadata

_TIME, _KIND, _FLOPS = "latency_metadata", "moe_jax_kind", "moe_jax_flops"


@dataclass(frozen=True)
class KernelCost:
    """One run of a kernel on one device.

    Attributes:
        kind: whose rates apply, as `planner/xla/work.py` names them: "matmul_grouped".
        flops: of matrix products, two per multiply-add.
    """

    kind: str
    flops: int


def told(cost: KernelCost, seconds: float, results: int) -> AbstractContextManager[None]:
    """Tell the cost of the one kernel that is called inside.

    Args:
        cost: what the planner reads.
        seconds: what XLA's scheduler reads.
        results: arrays that the kernel returns. XLA gives each of several the attributes of the
            call and would count them all, so the time is divided among them.
    """
    counted = 1 + results if results > 1 else 1
    time = round(seconds / counted * 1e9)
    return set_xla_metadata(**{_TIME: str(time), _KIND: cost.kind, _FLOPS: str(cost.flops)})


def told_cost(attributes: str) -> KernelCost | None:
    """Return what a compiled call says of its cost; None where it says nothing.

    Args:
        attributes: of an instruction, as HLO prints them.
    """
    found = [re.search(rf'\b{name}="([^"]*)"', attributes) for name in (_KIND, _FLOPS)]
    return KernelCost(found[0][1], int(found[1][1])) if found[0] and found[1] else None
