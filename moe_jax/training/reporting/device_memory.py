"""How much memory a run uses: the devices' own counters, or the process where they have none.

What a compiled step will need is the planner's business.
"""

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

GIB = 2**30
#: Second number: resident pages of this process.
_STATM = Path("/proc/self/statm")

MemoryKind = Literal["device peak", "process", "process peak"]


class Device(Protocol):
    """The part of `jax.Device` that knows its memory; `memory_stats` is None on CPU."""

    def memory_stats(self) -> Mapping[str, Any] | None:
        """Counters in bytes, `peak_bytes_in_use` among them."""
        ...


@dataclass(frozen=True)
class Memory:
    """Memory in GiB, and what it is the memory of.

    Attributes:
        gib: the fullest of this process's devices, or the whole process.
        kind: "device peak": high-water mark of a device since the start; "process": resident
            now; "process peak": high-water mark of the process, where the system tells no more.
    """

    gib: float
    kind: MemoryKind


def measure_memory(devices: Sequence[Device]) -> Memory:
    """Return the memory in use.

    Args:
        devices: this process's devices. Emulated ones share the process's memory and count none
            of their own: then it is the process that is measured.
    """
    stats = [counters for device in devices if (counters := device.memory_stats())]
    if stats:
        return Memory(max(counters["peak_bytes_in_use"] for counters in stats) / GIB, "device peak")
    return _process_memory()


def _process_memory() -> Memory:
    if _STATM.exists():
        pages = int(_STATM.read_text().split()[1])
        return Memory(pages * os.sysconf("SC_PAGE_SIZE") / GIB, "process")
    # getrusage counts KiB, except on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return Memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, "process peak")
