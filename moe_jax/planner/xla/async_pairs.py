"""Does communication hide? The answer of a compiled program's text, which knows no times.

A collective can hide only if it is a start and a done with matmuls between them. How well it hides
by XLA's own estimate is judged in `overlap.py`; the text is parsed in `hlo.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moe_jax.planner.xla.hlo import (
    HloComputation,
    called,
    done_of,
    is_blocking,
    parse_hlo,
    shape_bytes,
)
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


def async_pairs(hlo_text: str, kind: str = "all-to-all") -> tuple[AsyncPair, ...]:
    """List the collectives of one kind and count the matmuls that may run beside each.

    Matmuls in fusions, calls and loop bodies count; those in branches do not, as they may not run.

    Args:
        hlo_text: `jax.stages.Compiled.as_text()`.

    Raises:
        UserError: when the text is not a scheduled module.
    """
    module = parse_hlo(hlo_text)
    counter = _Matmuls(module)
    return tuple(pair for c in module.values() for pair in _pairs(c, kind, counter))


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


def require_async(
    hlo_text: str, kind: str = "all-to-all", bare: int = 0, min_bytes: int = 0
) -> tuple[AsyncPair, ...]:
    """Demand that collectives are asynchronous and have matmuls between start and done.

    Branches (overflow rounds) are left out: they rarely run and have nothing to hide behind.

    Args:
        bare: how many per computation may block, or have no matmul beside them. The first
            dispatch and the last combine of a forward layer have nothing left to hide behind.
        min_bytes: smaller collectives are left out; elementwise work is enough to hide them.

    Returns:
        The pairs looked at.

    Raises:
        OverlapLost: naming those that do not comply; or when there are none to look at.
    """
    pairs = tuple(
        p
        for p in async_pairs(hlo_text, kind)
        if "conditional" not in p.context and p.result_bytes >= min_bytes
    )
    if not pairs:
        raise OverlapLost(f"the program has no {kind} outside branches")
    for computation in dict.fromkeys(p.computation for p in pairs):
        mine = [p for p in pairs if p.computation == computation]
        alone = [p for p in mine if p.matmuls == 0 or not p.is_async]
        if len(alone) > bare:
            names = ", ".join(p.start + ("" if p.is_async else " (blocks)") for p in alone)
            raise OverlapLost(
                f"{computation}: {len(alone)} of {len(mine)} {kind} have no matmul beside them: "
                f"{names}; at most {bare} may. Use more streams, or check that the dot merger is "
                "off (mesh/xla_options.py)"
            )
    return pairs


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
