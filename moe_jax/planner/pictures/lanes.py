"""A timeline sorted into lanes: what a picture of one layer draws, whatever the format.

The pictures are `page.py` (HTML) and `trace.py` (Chrome's trace events); figures of a plan are in
`report/figures.py`, the rules of what counts as exposed in `xla/overlap.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moe_jax.errors import UserError
from moe_jax.planner.xla.hlo import shape_bytes
from moe_jax.planner.xla.overlap import (
    CollectiveWindow,
    LayerTimelines,
    Overlap,
    collective_windows,
    exposed_spans,
    layer_timelines,
    overlap,
    own_times,
)
from moe_jax.planner.xla.timeline import Instruction, Timeline
from moe_jax.planner.xla.work import ATTENTION

Category = Literal["matmul", "attention", "other"]


@dataclass(frozen=True)
class Bar:
    """An instruction on the compute lane; times in µs from the layer's start."""

    name: str
    category: Category
    #: What it computes, in the program's own words: an einsum, a primitive.
    label: str
    #: "", or what a training step computes it for: "recomputed", "gradient".
    purpose: str
    origin: str
    start_us: float
    end_us: float

    @property
    def duration_us(self) -> float:
        """How long it computes."""
        return self.end_us - self.start_us


@dataclass(frozen=True)
class Flight:
    """A collective beside the compute lane; times in µs from the layer's start."""

    name: str
    kind: str
    #: Among the collectives of its kind, so that those of one lane never overlap.
    lane: int
    start_us: float
    end_us: float
    #: What it takes by itself; the rest of its window it has arrived and is not needed yet.
    own_us: float
    exposed_us: float
    #: What it delivers to one device, as HLO prints it; "" where the timeline does not know.
    delivers: str

    @property
    def bytes(self) -> int:
        """Of what it delivers; 0 where that is not known."""
        return shape_bytes(self.delivers)


@dataclass(frozen=True)
class Lanes:
    """One layer: a compute lane, communication lanes, and when nothing computes."""

    title: str
    total_us: float
    bars: tuple[Bar, ...]
    flights: tuple[Flight, ...]
    #: (from, to): some collective is under way and nothing computes. Disjoint, in order.
    exposed: tuple[tuple[float, float], ...]
    #: Figures of each kind of collective, what takes longest first.
    overlaps: tuple[Overlap, ...]

    def busy_us(self, of: Category) -> float:
        """Return the time that the compute lane spends on one category, in µs."""
        return sum(b.duration_us for b in self.bars if b.category == of)

    @property
    def compute_us(self) -> float:
        """Time in which something computes."""
        return sum(b.duration_us for b in self.bars)

    @property
    def communication_us(self) -> float:
        """What all collectives take by themselves."""
        return sum(f.own_us for f in self.flights)

    @property
    def exposed_us(self) -> float:
        """Time in which some collective is under way and nothing computes."""
        return sum(b - a for a, b in self.exposed)

    @property
    def hidden_us(self) -> float:
        """Communication that is not exposed."""
        return max(0.0, self.communication_us - self.exposed_us)


def layer_lanes(timelines: Sequence[Timeline]) -> tuple[Lanes, ...]:
    """Return the layers of a program: forward, and backward where there is one.

    Args:
        timelines: all timelines of the program, as compiled or played again.

    Raises:
        UserError: when no computation exchanges tokens, so that there is nothing to look at.
    """
    layers = layer_timelines(timelines)
    if not layers.forward + layers.backward:
        raise UserError(
            "the program exchanges no tokens, so there is no layer to draw: an all_to_all "
            "transport on two or more devices does"
        )
    own = own_times(timelines)
    return tuple(_lanes(title, timeline, own) for title, timeline in _titled(layers))


def _titled(layers: LayerTimelines) -> Iterable[tuple[str, Timeline]]:
    for direction, layers_of in (("Forward", layers.forward), ("Backward", layers.backward)):
        for i, timeline in enumerate(layers_of, 1):
            yield (
                f"{direction} layer" + (f" ({i} of {len(layers_of)})" if layers_of[1:] else ""),
                timeline,
            )


def _lanes(title: str, timeline: Timeline, own: Mapping[str, float]) -> Lanes:
    delivers = {i.pair or i.name: i.delivers for i in timeline.instructions if i.delivers}
    kinds = sorted({i.collective for i in timeline.instructions} - {""})
    return Lanes(
        title=title,
        total_us=timeline.total_us,
        bars=tuple(
            _bar(i) for i in timeline.instructions if not i.collective and i.duration_us > 0
        ),
        flights=tuple(
            Flight(
                name=w.name,
                kind=w.kind,
                lane=lane,
                start_us=w.start_us,
                end_us=w.end_us,
                own_us=own[w.signature],
                exposed_us=w.exposed_us,
                delivers=delivers.get(w.name, ""),
            )
            for kind in kinds
            for w, lane in _packed(collective_windows(timeline, kind))
        ),
        exposed=exposed_spans(timeline),
        overlaps=tuple(
            sorted((overlap(timeline, kind, own) for kind in kinds), key=lambda o: -o.own_us)
        ),
    )


def _packed(of_kind: Sequence[CollectiveWindow]) -> Iterable[tuple[CollectiveWindow, int]]:
    """Yield each window with the first lane that is free when it starts."""
    ends: list[float] = []
    for window in sorted(of_kind, key=lambda w: w.start_us):
        free = (n for n, end in enumerate(ends) if end <= window.start_us)
        lane = next(free, len(ends))
        ends[lane : lane + 1] = [window.end_us]
        yield window, lane


def _bar(i: Instruction) -> Bar:
    path = i.op_name.split("/")
    purpose = "gradient" if "transpose(" in i.op_name else ""
    if "rematted_computation" in path:
        purpose = "recomputed"
    # An einsum's own name comes before the primitive it became.
    steps = [p for p in path if p not in ("dot_general", "transpose")]
    label = steps[-1] if i.op_name else i.opcode
    if _category(i) == "attention":
        label = "attention"  # the primitive's name says no more, at length
    return Bar(i.name, _category(i), label, purpose, i.op_name, i.start_us, i.end_us)


def _category(i: Instruction) -> Category:
    """Return what an instruction is, by its name.

    A schedule holds no bodies of fusions, but XLA names those with a matmul inside gemm_...
    """
    if i.target.startswith(ATTENTION):
        return "attention"
    is_matmul = i.name.startswith("gemm") or i.target.startswith("__cublas") or i.opcode == "dot"
    return "matmul" if is_matmul else "other"
