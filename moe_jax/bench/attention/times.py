"""Attention timed, forward and with gradients, beside the time that its work takes at best."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax

from moe_jax.bench.attention.cases import AttentionCase, draw_operands
from moe_jax.bench.attention.check import compiled_run, first_line
from moe_jax.bench.attention.oracle import attention_by
from moe_jax.bench.harness import measure
from moe_jax.model.flops import mean_context
from moe_jax.nn.dot_attention import Implementation


@dataclass(frozen=True)
class AttentionTime:
    """Seconds of a case, and the bytes that it needs besides operands and results."""

    case: AttentionCase
    by: str
    forward_s: float
    #: Forward and backward.
    both_s: float
    temp_bytes: int | None = None

    def line(self, peak_flops: float | None) -> str:
        """Return the figures as text.

        Args:
            peak_flops: of the device; None where nobody knows them.
        """
        flops = causal_flops(self.case)
        bound = f", at best {3e3 * flops / peak_flops:.3f} ms" if peak_flops else ""
        temp = "" if self.temp_bytes is None else f"  temporary {self.temp_bytes / 2**20:.0f} MiB"
        return (
            f"{self.case.name:24} {self.by:10} forward {self.forward_s * 1e3:8.3f} ms "
            f"({flops / self.forward_s / 1e12:4.0f} TFLOP/s)  both {self.both_s * 1e3:8.3f} ms "
            f"({3 * flops / self.both_s / 1e12:4.0f} TFLOP/s{bound}){temp}"
        )


def causal_flops(case: AttentionCase) -> float:
    """Return the forward pass's work, as if every row were one document; a backward pass has two.

    Args:
        case: what is attended.
    """
    seen = case.batch * case.length * mean_context(case.length, case.window)
    return 2 * case.heads * (case.width + case.values) * seen


def time_attention(
    implementations: Sequence[Implementation],
    cases: Sequence[AttentionCase],
    dtype: str = "bfloat16",
    *,
    repeats: int = 5,
    batch_s: float = 0.05,
) -> Iterator[AttentionTime | str]:
    """Yield the time of each case and implementation, or why there is none.

    Args:
        implementations: which.
        cases: on what.
        dtype: of the operands.
        repeats: batches that are timed.
        batch_s: seconds of a batch, at least.
    """
    with ThreadPoolExecutor() as pool:
        pending = [
            (
                case,
                name,
                [pool.submit(make, name, case, dtype) for make in (_forward, compiled_run)],
            )
            for case in cases
            for name in implementations
        ]
        for case, name, programs in pending:
            try:
                forward, both = (program.result() for program in programs)
                forward_s, both_s = _seconds((forward, both), case, dtype, repeats, batch_s)
                yield AttentionTime(case, name, forward_s, both_s, _temporary(both))
            except Exception as error:  # whatever a compiler or a library says: reported, and on
                yield f"{case.name:24} {name:10} {first_line(error)}"


def _forward(implementation: Implementation, case: AttentionCase, dtype: str) -> Any:
    operands = jax.eval_shape(lambda: draw_operands(case, dtype))
    return jax.jit(attention_by(implementation, case)).lower(operands).compile()


def _seconds(
    programs: Sequence[Callable[..., Any]],
    case: AttentionCase,
    dtype: str,
    repeats: int,
    batch_s: float,
) -> list[float]:
    operands = draw_operands(case, dtype)
    return [
        measure(lambda p=program: p(operands), repeats=repeats, batch_s=batch_s).seconds
        for program in programs
    ]


def _temporary(program: Any) -> int | None:
    analysis = program.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)
