"""Attention checked where it will run: values and gradients of each case against float32."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moe_jax.bench.attention.cases import CHECKED, AttentionCase, Operands, draw_operands
from moe_jax.bench.attention.oracle import attention_by, oracle, with_gradients
from moe_jax.nn.dot_attention import Implementation

#: Relative error of an array: bfloat16's rounding gives a third of this.
BOUND = 2e-2


@dataclass(frozen=True)
class AttentionVerdict:
    """What became of a case: the relative error of each array, or why there is none."""

    case: AttentionCase
    implementation: Implementation
    errors: dict[str, float]
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether every array is as close as its type allows."""
        return not self.failure and max(self.errors.values()) < BOUND

    def line(self) -> str:
        """Return the verdict as text."""
        found = self.failure or "  ".join(f"{name} {e:.1e}" for name, e in self.errors.items())
        word = "ok  " if self.passed else "FAIL"
        return f"{word} {self.implementation:5} {self.case.name:26} {found}"


def check(
    implementations: Sequence[Implementation],
    cases: Sequence[AttentionCase] = CHECKED,
    report: Callable[[str], Any] = print,
    dtype: str = "bfloat16",
) -> list[AttentionVerdict]:
    """Check every case with every implementation; a failure does not hide the others.

    Args:
        implementations: what is checked.
        cases: on what.
        report: takes a line per verdict.
        dtype: of the operands.

    Returns:
        All verdicts.
    """
    verdicts = []
    with ThreadPoolExecutor() as pool:
        references = [pool.submit(compiled_reference, case) for case in cases]
        programs: list[tuple[Implementation, AttentionCase, Any, Any]] = [
            (name, case, reference, pool.submit(compiled_run, name, case, dtype))
            for case, reference in zip(cases, references, strict=True)
            for name in implementations
        ]
        for name, case, reference, program in programs:
            try:
                operands = draw_operands(case, dtype)
                found = errors(program.result(), reference.result(), operands)
                verdict = AttentionVerdict(case, name, found)
            except Exception as error:  # whatever a compiler or a library says: reported, and on
                verdict = AttentionVerdict(case, name, {}, first_line(error))
            report(verdict.line())
            verdicts.append(verdict)
    return verdicts


def compiled_run(implementation: Implementation, case: AttentionCase, dtype: str) -> Any:
    """Return an implementation's value and gradients on a case, compiled."""
    operands = jax.eval_shape(lambda: draw_operands(case, dtype))
    return jax.jit(with_gradients(attention_by(implementation, case))).lower(operands).compile()


def compiled_reference(case: AttentionCase) -> Any:
    """Return the oracle's value and gradients on a case, in float32, compiled."""
    operands = jax.eval_shape(lambda: draw_operands(case, "float32"))
    with jax.default_matmul_precision("highest"):
        return jax.jit(with_gradients(oracle(case))).lower(operands).compile()


def errors(
    run: Callable[..., Any], reference: Callable[..., Any], operands: Operands
) -> dict[str, float]:
    """Return the relative error of each array that a run returns: of its length as a vector.

    Args:
        run: operands -> arrays by name.
        reference: the same in float32.
        operands: of the run; the reference gets them in float32.
    """
    exact = jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, operands
    )
    actual, wanted = run(operands), reference(exact)
    return {
        name: _error(np.asarray(actual[name], np.float64), np.asarray(wanted[name], np.float64))
        for name in wanted
        if wanted[name] is not None
    }


def first_line(error: Exception) -> str:
    """Return an exception's type and the beginning of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _error(actual: np.ndarray, wanted: np.ndarray) -> float:
    error = np.linalg.norm(actual - wanted) / max(np.linalg.norm(wanted), 1e-9)
    return float(np.nan_to_num(error, nan=np.inf))
