"""The times of a profile: by kind of kernel, and of each kind of collective what is hidden."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_jax.training.reporting.trace.events import Events, Kernel
from moe_jax.training.reporting.trace.kernels import KINDS, PRODUCTS, collective, kind_of
from moe_jax.training.reporting.trace.spans import Spans


@dataclass(frozen=True)
class Hidden:
    """One kind of collective, mean over devices, in seconds.

    Attributes:
        count: kernels of a device.
        busy_s: while any of them runs.
        exposed_s: of that, while nothing else computes.
    """

    kind: str
    count: int
    busy_s: float
    exposed_s: float

    @property
    def hidden_s(self) -> float:
        """While something else computes."""
        return self.busy_s - self.exposed_s


@dataclass(frozen=True)
class Profile:
    """Where the time of a profile goes, mean over devices, in seconds; all measured.

    Attributes:
        devices: how many are in it.
        total_s: from the first kernel's beginning to the last one's end.
        kinds: kernels' own times by kind, of those that are no collectives.
        collectives: by kind.
        exposed_s: while collectives of any kind run, and nothing else.
        idle_s: while nothing runs.
        slowdown: how many times longer products take while collectives run, each compared with
            the same instruction alone; None where none ran both ways.
    """

    devices: int
    total_s: float
    kinds: dict[str, float]
    collectives: tuple[Hidden, ...]
    exposed_s: float
    idle_s: float
    slowdown: float | None


def measure_profile(events: Events) -> Profile:
    """Sum up a profile.

    Args:
        events: by device, as `read_events` returns them; each device has some.
    """
    each = [_of_device(found) for found in events.values()]
    kinds = {kind: _mean([one.kinds[kind] for one in each]) for kind in KINDS}
    names = dict.fromkeys(hidden.kind for one in each for hidden in one.collectives)
    slowdowns = [one.slowdown for one in each if one.slowdown is not None]
    return Profile(
        devices=len(each),
        total_s=_mean([one.total_s for one in each]),
        kinds=kinds,
        collectives=tuple(_mean_hidden(name, each) for name in names),
        exposed_s=_mean([one.exposed_s for one in each]),
        idle_s=_mean([one.idle_s for one in each]),
        slowdown=_mean(slowdowns) if slowdowns else None,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean_hidden(name: str, each: Sequence[Profile]) -> Hidden:
    found = [h for one in each for h in one.collectives if h.kind == name]
    figures = (sum(h.busy_s for h in found), sum(h.exposed_s for h in found))
    return Hidden(
        name, round(sum(h.count for h in found) / len(each)), *(v / len(each) for v in figures)
    )


def _of_device(events: list[Kernel]) -> Profile:
    moving: dict[str, list[Kernel]] = {}
    computing: list[tuple[str, Kernel]] = []
    for event in events:
        if name := collective(event):
            moving.setdefault(name, []).append(event)
        else:
            computing.append((kind_of(event), event))
    compute = _spans([event for _, event in computing])
    moved = _spans([event for found in moving.values() for event in found])
    everything = _spans(events)
    total = max(e.end_ns for e in events) - min(e.start_ns for e in events)
    return Profile(
        devices=1,
        total_s=total * 1e-9,
        kinds={k: sum(e.seconds for kind, e in computing if kind == k) for k in KINDS},
        collectives=tuple(_hidden(name, found, compute) for name, found in moving.items()),
        exposed_s=(moved.length - moved.common(compute)) * 1e-9,
        idle_s=(total - everything.length) * 1e-9,
        slowdown=_slowdown([e for kind, e in computing if kind in PRODUCTS], moved),
    )


def _hidden(name: str, events: list[Kernel], compute: Spans) -> Hidden:
    busy = _spans(events)
    exposed_ns = busy.length - busy.common(compute)
    return Hidden(name, len(events), busy.length * 1e-9, exposed_ns * 1e-9)


def _slowdown(products: list[Kernel], moved: Spans) -> float | None:
    """Compare each instruction beside collectives (most of its time) with itself alone (all)."""
    by_op: dict[tuple[str, str], list[Kernel]] = {}
    for event in products:
        by_op.setdefault((event.name, event.op), []).append(event)
    beside, alone = 0.0, 0.0
    for found in by_op.values():
        start, end = (np.array([getattr(e, f"{at}_ns") for e in found]) for at in ("start", "end"))
        shares = moved.within(start, end) / np.maximum(end - start, 1e-9)
        both, none = (end - start)[shares > 0.5], (end - start)[shares == 0]
        if len(both) and len(none):
            beside, alone = beside + both.sum(), alone + len(both) * none.mean()
    return float(beside / alone) if alone else None


def _spans(events: list[Kernel]) -> Spans:
    return Spans(np.array([(e.start_ns, e.end_ns) for e in events], float).reshape(-1, 2))
