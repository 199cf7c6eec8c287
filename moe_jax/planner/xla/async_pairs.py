"""Can communication hide? The answer of a compiled program's text, which knows no times.

A collective can hide only if it is a start and a done with matmuls between them. How well it hides
by XLA's own estimate is judged in `overlap.py`; for GPUs that XLA estimates no times for, this is
all there is. The text is parsed in `hlo.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_jax.planner.xla.hlo import HloComputation, called, done_of, is_blocking, shape_bytes
from moe_jax.planner.xla.overlap import OverlapLost


@dataclass(frozen=True)
class AsyncPair:
    """A collective in a scheduled program's text."""

    kind: str
    start: str
    #: "" for a collective that blocks by itself.
    done: str
    computation: str
    context: tuple[str, ...]
    #: Between start and done, in execution order.
    matmuls: int
    is_async: bool
    #: What it delivers to one device.
    result_bytes: int

    @property
    def can_hide(self) -> bool:
        """Whether it is asynchronous, with a matmul between start and done."""
        return self.is_async and self.matmuls > 0

    @property
    def in_branch(self) -> bool:
        """Whether it may not run at all: an overflow round of the exchange."""
        return "conditional" in self.context


@dataclass(frozen=True)
class Hideable:
    """How much of what one kind of collective delivers in a computation can hide, in bytes."""

    computation: str
    kind: str
    count: int
    result_bytes: int
    hideable_bytes: int
    #: Starts of those that cannot.
    bare: tuple[str, ...]

    @property
    def share(self) -> float:
        """The most that can hide: 1 = all of it."""
        return self.hideable_bytes / self.result_bytes

    def __str__(self) -> str:
        return (
            f"{self.computation}: {self.count} x {self.kind}, {self.result_bytes / 2**20:.1f} MiB, "
            f"of which {self.share:.1%} have a matmul between start and done"
        )


def async_pairs(
    module: Mapping[str, HloComputation], kind: str = "all-to-all"
) -> tuple[AsyncPair, ...]:
    """List the collectives of one kind and count the matmuls that may run beside each.

    Matmuls in fusions, calls and loop bodies count; those in branches do not, as they may not run.

    Args:
        module: from `parse_hlo`.
        kind: the kind of collective.
    """
    counter = _Matmuls(module)
    return tuple(pair for c in module.values() for pair in _pairs(c, kind, counter))


def hideable(pairs: Sequence[AsyncPair]) -> tuple[Hideable, ...]:
    """Sum up pairs by computation, those in branches and those that deliver nothing left out."""
    looked_at = [p for p in pairs if not p.in_branch and p.result_bytes]
    by_computation = {
        name: [p for p in looked_at if p.computation == name]
        for name in dict.fromkeys(p.computation for p in looked_at)
    }
    return tuple(
        Hideable(
            name,
            mine[0].kind,
            len(mine),
            sum(p.result_bytes for p in mine),
            sum(p.result_bytes for p in mine if p.can_hide),
            tuple(p.start for p in mine if not p.can_hide),
        )
        for name, mine in by_computation.items()
    )


def require_hideable(figures: Hideable, hidden: float) -> Hideable:
    """Demand that collectives can hide; whether they do, only times could tell.

    Args:
        figures: of one computation.
        hidden: the least share of the bytes, from 0 to 1.

    Returns:
        The figures, when they do.

    Raises:
        OverlapLost: with the figures and the collectives that cannot.
    """
    if figures.share >= hidden:
        return figures
    raise OverlapLost(
        f"{figures}; at least {hidden:.1%} must be hidden. Without a matmul beside them: "
        f"{', '.join(figures.bare[:3])}. Use more streams, or check that the dot merger is off "
        "(mesh/xla_options.py)"
    )


def _pairs(computation: HloComputation, kind: str, matmuls: "_Matmuls") -> Iterable[AsyncPair]:
    body = computation.instructions
    for i, start in enumerate(body):
        if start.opcode not in (kind, f"{kind}-start"):
            continue
        done, between, result = "", (), start
        if start.opcode.endswith("-start"):
            end = done_of(start, computation)
            result = end
            done, between = end.name, body[i + 1 : body.index(end)]
        yield AsyncPair(
            kind,
            start.name,
            done,
            computation.name,
            computation.context,
            sum(matmuls.of(b.name, computation) for b in between),
            bool(done) and not is_blocking(start),
            shape_bytes(result.shape),
        )


class _Matmuls:
    """Counts matmuls of instructions, through what they call."""

    def __init__(self, module: Mapping[str, HloComputation]):
        self._module = module
        self._totals: dict[str, int] = {}

    def of(self, name: str, computation: HloComputation) -> int:
        instruction = computation.by_name[name]
        if instruction.opcode == "dot":
            return 1
        if instruction.opcode == "custom-call":
            # cuBLAS's: __cublas$gemm, __cublas$lt$matmul, ...
            return int('custom_call_target="__cublas' in instruction.attributes)
        if instruction.opcode == "conditional":
            return 0
        return sum(self._total(c) for c in called(instruction))

    def _total(self, name: str) -> int:
        if name not in self._totals:
            computation = self._module[name]
            self._totals[name] = sum(self.of(i.name, computation) for i in computation.instructions)
        return self._totals[name]
