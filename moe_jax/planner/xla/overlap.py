"""Does communication hide? The answer of a timeline.

A collective's *window* runs from the beginning of its start to the end of its done; it is *exposed*
while no compute runs inside the window. The answer of a program's text, independent of any time,
is in `async_pairs.py`; timelines come from `timeline.py`, what-if changes of them from `replay.py`.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moe_jax.errors import UserError
from moe_jax.planner.xla.timeline import COLLECTIVES, Instruction, Timeline, starts
from moe_jax.scopes import FURTHER_ROUNDS


class OverlapLost(UserError):
    """Communication that should hide does not."""


@dataclass(frozen=True)
class CollectiveWindow:
    """One collective in a timeline, in µs."""

    name: str
    kind: str
    signature: str
    start_us: float
    end_us: float
    #: Part of the window in which nothing computes.
    exposed_us: float

    @property
    def window_us(self) -> float:
        """From the beginning of its start to the end of its done."""
        return self.end_us - self.start_us

    @property
    def hidden_us(self) -> float:
        """Part of the window in which something computes."""
        return self.window_us - self.exposed_us


@dataclass(frozen=True)
class Overlap:
    """How well one kind of collective hides in one computation, in µs."""

    computation: str
    kind: str
    count: int
    #: What the collectives take by themselves, summed.
    own_us: float
    #: Time inside their windows (counted once where two overlap) without compute.
    exposed_us: float
    compute_us: float
    total_us: float

    @property
    def exposed_share(self) -> float:
        """Exposed time over the collectives' own: 0 = all hidden, 1 = nothing hidden."""
        return self.exposed_us / self.own_us

    def __str__(self) -> str:
        return (
            f"{self.computation}: {self.count} x {self.kind}, {self.own_us / 1e3:.2f} ms by "
            f"themselves, {self.exposed_us / 1e3:.2f} ms exposed ({self.exposed_share:.1%}), "
            f"compute {self.compute_us / 1e3:.2f} of {self.total_us / 1e3:.2f} ms"
        )


@dataclass(frozen=True)
class LayerTimelines:
    """The computations of a training step that exchange tokens; () where there is none."""

    forward: tuple[Timeline, ...]
    backward: tuple[Timeline, ...]


def collective_windows(
    timeline: Timeline, kind: str = "all-to-all"
) -> tuple[CollectiveWindow, ...]:
    """Return the windows of all collectives of one kind, in order of their starts."""
    done = {i.pair: i.end_us for i in timeline.instructions if i.role == "done"}
    lane = _Lane(timeline.instructions)
    return tuple(
        CollectiveWindow(
            i.name,
            kind,
            i.signature,
            i.start_us,
            (end := done.get(i.name, i.end_us)),
            end - i.start_us - lane.busy(i.start_us, end),
        )
        for i in starts(timeline, kind)
    )


def exposed_spans(
    timeline: Timeline, kinds: Collection[str] = COLLECTIVES
) -> tuple[tuple[float, float], ...]:
    """Return when communication is under way and nothing computes: (from, to) in µs.

    Spans are disjoint and in order; several collectives that wait together count once.

    Args:
        timeline: of one computation.
        kinds: of collectives that are looked at.
    """
    lane = _Lane(timeline.instructions)
    under_way = _union(
        [(w.start_us, w.end_us) for kind in kinds for w in collective_windows(timeline, kind)]
    )
    return tuple(gap for a, b in under_way for gap in lane.gaps(a, b))


def own_times(timelines: Iterable[Timeline]) -> dict[str, float]:
    """Return what each collective takes by itself, in µs, by signature.

    XLA does not write it down. But a collective that is waited for has a window of just its own
    time, and collectives of one signature (kind, shape, groups) cost the same wherever they stand:
    so the shortest window is the own time if any of them is waited for, and an upper bound if
    none is, in which case nothing is exposed anyway. Pass all timelines of a module.
    """
    own: dict[str, float] = {}
    for timeline in timelines:
        for kind in {i.collective for i in timeline.instructions} - {""}:
            for w in collective_windows(timeline, kind):
                own[w.signature] = min(w.window_us, own.get(w.signature, w.window_us))
    return own


def overlap(
    timeline: Timeline, kind: str = "all-to-all", own: Mapping[str, float] | None = None
) -> Overlap:
    """Sum up one kind of collective in one computation.

    Args:
        timeline: of the computation.
        kind: the kind of collective.
        own: `own_times` of the whole module; by default of this timeline alone.

    Raises:
        UserError: when there is no such collective, for then a share means nothing.
    """
    of_kind = collective_windows(timeline, kind)
    if not of_kind:
        raise UserError(
            f"{timeline.computation} has no {kind}: choose its computation with layer_timelines"
        )
    own = own_times([timeline]) if own is None else own
    return Overlap(
        computation=timeline.computation,
        kind=kind,
        count=len(of_kind),
        own_us=sum(own[w.signature] for w in of_kind),
        exposed_us=sum(b - a for a, b in exposed_spans(timeline, [kind])),
        compute_us=_Lane(timeline.instructions).busy(0.0, timeline.total_us),
        total_us=timeline.total_us,
    )


def require_hidden(
    timeline: Timeline,
    hidden: float,
    kind: str = "all-to-all",
    own: Mapping[str, float] | None = None,
) -> Overlap:
    """Demand that one kind of collective hides.

    Args:
        timeline: of the computation.
        hidden: the least share of the collectives' own time, from 0 to 1.
        kind: the kind of collective.
        own: as in `overlap`.

    Returns:
        The figures, when it does.

    Raises:
        OverlapLost: with the figures and the collectives that are exposed longest.
    """
    figures = overlap(timeline, kind, own)
    if 1 - figures.exposed_share >= hidden:
        return figures
    worst = sorted(collective_windows(timeline, kind), key=lambda w: -w.exposed_us)[:3]
    names = ", ".join(f"{w.name} {w.exposed_us / 1e3:.2f} ms" for w in worst)
    raise OverlapLost(
        f"{figures}; at least {hidden:.1%} must be hidden. Longest exposed: {names}. Use more "
        "streams, or check that the dot merger is off (mesh/xla_options.py)"
    )


def layer_timelines(timelines: Sequence[Timeline], kind: str = "all-to-all") -> LayerTimelines:
    """Sort out the computations that hold `kind`, leaving out branches and further rounds."""
    exchanging = [
        t
        for t in timelines
        if "conditional" not in t.context
        and any(FURTHER_ROUNDS not in i.op_name for i in starts(t, kind))
    ]
    return LayerTimelines(
        forward=tuple(t for t in exchanging if not t.is_backward),
        backward=tuple(t for t in exchanging if t.is_backward),
    )


class _Lane:
    """The compute lane: busy time between two moments."""

    def __init__(self, instructions: Sequence[Instruction]):
        computing = (i for i in instructions if not i.collective and i.end_us > i.start_us)
        spans = _union([(i.start_us, i.end_us) for i in computing])
        self._starts = [a for a, _ in spans]
        self._spans = spans
        self._before = [0.0]
        for a, b in spans:
            self._before.append(self._before[-1] + b - a)

    def busy(self, start: float, end: float) -> float:
        return self._until(end) - self._until(start)

    def gaps(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        """Yield the idle moments between two, in order."""
        first = max(0, bisect_right(self._starts, start) - 1)
        for a, b in self._spans[first:]:
            if a >= end:
                break
            if a > start:
                yield start, a
            start = max(start, b)
        if start < end:
            yield start, end

    def _until(self, moment: float) -> float:
        n = bisect_right(self._starts, moment)
        late = max(0.0, self._spans[n - 1][1] - moment) if n else 0.0
        return self._before[n] - late


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return merged
