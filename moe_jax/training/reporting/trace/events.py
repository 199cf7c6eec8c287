"""A profile's kernels, device by device, from the file that `jax.profiler` writes.

On a GPU each event of a stream is a kernel or a copy. On a CPU the operations of all devices lie
among the host's threads, and one that calls others (a loop) holds theirs inside: it is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData

from moe_jax.errors import UserError


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran.

    Attributes:
        name: the kernel's own.
        op: the instruction of the compiled program that it belongs to; "" where that is not said.
        start_ns, end_ns: on the profile's clock.
        scope: where in the source's functions the instruction comes from; "" likewise.
    """

    name: str
    op: str
    start_ns: float
    end_ns: float
    scope: str = ""

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return (self.end_ns - self.start_ns) * 1e-9


#: By name of the device, in order of their beginnings.
Events = dict[str, list[Kernel]]


def newest_profile(directory: Path) -> Path:
    """Return the newest profile of a run, or of a directory of profiles.

    Args:
        directory: anything above `plugins/profile/*/*.xplane.pb`.

    Raises:
        UserError: there is none.
    """
    files = sorted(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UserError(
            f"{directory} holds no profile (*.xplane.pb): train with --set "
            "'train.profile_steps=[10, 12]' to make one"
        )
    return files[-1]


def read_events(file: Path) -> Events:
    """Return the events of a profile.

    Args:
        file: a `.xplane.pb`.

    Raises:
        UserError: nothing of a device is in it.
    """
    events: Events = {}
    for plane in ProfileData.from_file(str(file)).planes:
        for device, event in _events(plane):
            events.setdefault(device, []).append(event)
    if not events:
        raise UserError(f"{file} holds no kernels of a device: was anything computed meanwhile?")
    for name, found in events.items():
        events[name] = _innermost(sorted(found, key=lambda e: (e.start_ns, -e.end_ns)))
    return dict(sorted(events.items()))


def _events(plane: Any) -> Iterator[tuple[str, Kernel]]:
    on_gpu = plane.name.startswith("/device:GPU")
    if not on_gpu and plane.name != "/host:CPU":
        return
    for line in plane.lines:
        # Other lines of a GPU say the same once more: by module, by step.
        if on_gpu and not line.name.startswith("Stream"):
            continue
        for event in line.events:
            stats = dict(event.stats)
            op = str(stats.get("hlo_op", ""))
            if on_gpu or op:
                device = plane.name if on_gpu else f"cpu:{stats.get('device_ordinal', 0)}"
                end = event.start_ns + event.duration_ns
                scope = str(stats.get("tf_op", ""))
                yield device, Kernel(event.name, op, event.start_ns, end, scope)


def _innermost(events: list[Kernel]) -> list[Kernel]:
    """Leave out what holds other events inside: they are in order, the outer before the inner."""
    kept: list[Kernel] = []
    for event in events:
        while kept and kept[-1].end_ns >= event.end_ns and _is_loop(kept[-1]):
            kept.pop()
        kept.append(event)
    return kept


def _is_loop(event: Kernel) -> bool:
    return event.op.split(".")[0] in ("while", "call", "conditional")
