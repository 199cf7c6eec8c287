"""The grouped products checked where they are timed: values and gradients against float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moe_jax.bench.grouped.shapes import Shape, random_operands
from moe_jax.moe.grouped import Implementation, gated_mlp, grouped_matmul

#: A layer of sizes that leave partial tiles everywhere, the rows no multiple of anything.
CHECKED = Shape(groups=15, d=576, f=320, rows=4253)
#: Sizes of the first groups; the others are empty. The rows left are nobody's, and full of NaN.
CASES = {
    "small groups": (1, 2, 3, 7, 8, 9, 63, 64, 65, 66, 127, 128, 129, 0, 200),
    "empty": (0, 250, 0, 130, 0),
    "all in one": (0, 0, 4253),
    "nobody": (),
    "large": (1000, 313, 2000, 1, 0, 800),
}
#: Relative error of the worst array: bfloat16's rounding gives a fifth of this.
BOUND = 2e-2


def check(
    implementation: Implementation,
    shape: Shape = CHECKED,
    cases: dict[str, tuple[int, ...]] = CASES,
    report: Callable[[str], Any] = print,
) -> float:
    """Compare the MLP and a single product, with their gradients, with `dense` in float32.

    Args:
        implementation: what is checked, on bfloat16 rows and weights of float32 and bfloat16.
        shape: the layer.
        cases: by name, the sizes of the first groups; their sum is at most the shape's rows.
        report: takes a line per case.

    Returns:
        The worst relative error.

    Raises:
        RuntimeError: it is above `BOUND`.
    """
    worst = 0.0
    for dtype in (jnp.float32, jnp.bfloat16):
        run, oracle = (jax.jit(_everything(name)) for name in (implementation, "dense"))
        for name, sizes in cases.items():
            padded = np.zeros(shape.groups, np.int32)
            padded[: len(sizes)] = sizes
            errors = _errors(shape, padded, run, oracle, dtype)
            worst = max(worst, *errors.values())
            report(f"  {name}, {jnp.dtype(dtype)} weights: {max(errors.values()):.2e}")
    report(f"checked against float32: worst relative error {worst:.2e}")
    if not worst < BOUND:
        raise RuntimeError(
            f"{implementation}: a relative error of {worst:.2e}, where bfloat16 explains less than "
            f"{BOUND:.0e}"
        )
    return worst


def mlp_with_gradients(implementation: Implementation) -> Callable[..., Any]:
    """Return (x, gate, up, down, dy, sizes) -> the MLP's output and all its gradients."""

    def run(x, gate, up, down, dy, sizes):
        def mlp(x, gate, up, down):
            return gated_mlp(x, gate, up, down, sizes, implementation=implementation)

        out, pull = jax.vjp(mlp, x, gate, up, down)
        return out, pull(dy)

    return run


def _everything(implementation: Any) -> Callable[..., Any]:
    """Return a function of the MLP and of one product of it, both with their gradients."""

    def product(x, w, sizes):
        return grouped_matmul(x, w, sizes, implementation=implementation)

    def run(x, gate, up, down, dy, h, sizes):
        mlp = mlp_with_gradients(implementation)(x, gate, up, down, dy, sizes)
        out, pull = jax.vjp(lambda h, w: product(h, w, sizes), h, down)
        return mlp, out, pull(dy)

    return run


def _errors(
    shape: Shape, sizes: np.ndarray, run: Callable[..., Any], oracle: Callable[..., Any], dtype: Any
) -> dict[str, float]:
    values = random_operands(shape)
    for name in ("x", "dy", "h"):
        values[name] = values[name].at[int(sizes.sum()) :].set(jnp.nan)
    weights = {name: values[name].astype(dtype) for name in ("gate", "up", "down")}
    actual = run(*_arguments({**values, **weights}), sizes)
    with jax.default_matmul_precision("highest"):
        wanted = oracle(*(a.astype(jnp.float32) for a in _arguments(values)), sizes)
    names = ("out", "dx", "dgate", "dup", "ddown", "product", "product's dx", "product's dw")
    pairs = zip(names, jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True)
    return {name: _error(np.asarray(a, np.float64), np.asarray(b)) for name, a, b in pairs}


def _arguments(values: dict[str, jax.Array]) -> list[jax.Array]:
    return [values[name] for name in ("x", "gate", "up", "down", "dy", "h")]


def _error(actual: np.ndarray, wanted: np.ndarray) -> float:
    error = np.linalg.norm(actual - wanted) / max(np.linalg.norm(wanted), 1e-9)
    return float(np.nan_to_num(error, nan=np.inf))
