"""How much of a device a program may take; for what is decided by compiling.

What a run does use is `reporting/device_memory.py`; how much of a GPU JAX may take at all is
`mesh/xla_options.py`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from moe_jax.training.reporting.device_memory import GIB, Device

#: Share of the memory that JAX may take which a program leaves free. One of 56 GiB did not run
#: where JAX had 59 (`mesh/xla_options.py`): its temporary values want one piece of what is free.
RESERVE = 1 / 16
#: Share of a host's memory that emulated devices may take together: others use it too.
_HOST_SHARE = 0.5


def usable(pool_bytes: float) -> int:
    """Return what a program may take of the memory that JAX may take, in bytes per device."""
    return int((1 - RESERVE) * pool_bytes)


@dataclass(frozen=True)
class MemoryLimit:
    """What a program may take of each device in bytes, and of what that is a part."""

    bytes: int
    text: str


def memory_limit(devices: Sequence[Device]) -> MemoryLimit:
    """Return what a program may take.

    Args:
        devices: this process's. Emulated ones have no memory of their own: each may take its part
            of half the host's.
    """
    stats = [counters for device in devices if (counters := device.memory_stats())]
    if stats:
        pool = min(counters["bytes_limit"] for counters in stats)
        return MemoryLimit(usable(pool), f"the {pool / GIB:.1f} GiB that JAX may take")
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"half of this host's {host / GIB:.0f} GiB, for {len(devices)} emulated devices"
    return MemoryLimit(usable(_HOST_SHARE * host / len(devices)), text)
