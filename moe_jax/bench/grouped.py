"""`python -m moe_jax.bench.grouped`: the grouped matmul's kernels, checked, tuned and timed.

For each shape: every product of a layer's forward and backward pass with each candidate of tiles
(the winners are printed as rows of `moe/grouped/tiles.py`'s table), then the whole MLP for
balanced, random and skewed sizes. Its rival is `grouped_torch.py`, to be run on the same machine.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moe_jax.bench.grouped_shapes import ROUTINGS, SHAPES, Shape, group_sizes
from moe_jax.bench.harness import measure
from moe_jax.moe.grouped import gated_mlp, mosaic_rows, mosaic_weights, swiglu
from moe_jax.moe.grouped.tiles import TABLE, Product, Tiles

MEASURED = dict(TABLE)


def arrays(shape: Shape, dtype: Any = jnp.bfloat16) -> dict[str, jax.Array]:
    """Random rows, gradients and weights of a shape."""
    sizes = {
        "x": (shape.rows, shape.d),
        "dy": (shape.rows, shape.d),
        "h": (shape.rows, shape.f),
        "dh": (shape.rows, shape.f),
        "gate": (shape.groups, shape.d, shape.f),
        "up": (shape.groups, shape.d, shape.f),
        "down": (shape.groups, shape.f, shape.d),
    }
    key = jax.random.key(0)
    found = {}
    for nth, (name, size) in enumerate(sizes.items()):
        scale = size[-2] ** -0.5 if len(size) == 3 else 1.0
        found[name] = _normal(jax.random.fold_in(key, nth), size, scale, dtype)
    return found


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _normal(key: jax.Array, size: tuple[int, ...], scale: float, dtype: Any) -> jax.Array:
    return (scale * jax.random.normal(key, size)).astype(dtype)


@dataclass(frozen=True)
class Work:
    """One product of a layer: a row of the table of tiles, and how to call it."""

    name: str
    key: tuple[Product, int, int]
    #: Of the MLP's products of `Shape.tflop` each.
    products: int
    call: Callable[..., Any]
    operands: tuple[str, ...]


def works(shape: Shape) -> tuple[Work, ...]:
    """All products of a forward and a backward pass; functions of (operands..., sizes, tiles)."""
    d, f = shape.d, shape.f

    def gated(x, gate, up, sizes, tiles):
        return mosaic_rows.multiply_gated(x, gate, up, sizes, swiglu, tiles)

    def down(h, w, sizes, tiles):
        return mosaic_rows.multiply_rows([(h, w)], sizes, tiles)

    def grad_hidden(dy, w, sizes, tiles):
        return mosaic_rows.multiply_rows([(dy, w)], sizes, tiles, transposed=True)

    def grad_rows(dh, gate, up, sizes, tiles):
        return mosaic_rows.multiply_rows([(dh, gate), (dh, up)], sizes, tiles, transposed=True)

    def grad_weights(x, dy, sizes, tiles):
        return mosaic_weights.multiply_weights(x, dy, sizes, tiles, jnp.bfloat16)

    return (
        Work("gate and up", ("gated", d, f), 2, gated, ("x", "gate", "up")),
        Work("down", ("rows", f, d), 1, down, ("h", "down")),
        Work("grad hidden", ("rows_transposed", d, f), 1, grad_hidden, ("dy", "down")),
        Work("grad rows", ("rows_transposed", 2 * f, d), 2, grad_rows, ("dh", "gate", "up")),
        Work("grad gate", ("weights", d, f), 1, grad_weights, ("x", "dh")),
        Work("grad down", ("weights", f, d), 1, grad_weights, ("h", "dy")),
    )


def candidates(work: Work) -> Iterator[Tiles]:
    """Tiles that fit a Hopper block's shared memory, for one product."""
    product, _, cols = work.key
    width = 128 if product == "gated" else 256
    for band in (4,) if product == "weights" else (2, 4, 8, 16):
        if cols % width == 0:
            yield Tiles(cols=width, band=band)


def tune(shape: Shape, values: dict[str, jax.Array], sizes: jax.Array) -> dict:
    """Times every candidate of every product, fills the table, prints the best.

    Returns:
        Seconds by work's name.
    """
    best = {}
    for work in works(shape):
        operands = [values[name] for name in work.operands]

        def compiled(tiles, work=work, operands=operands):
            function = jax.jit(lambda *args: work.call(*args, tiles))
            return function.lower(*operands, sizes).compile()

        options = list(candidates(work))
        with ThreadPoolExecutor() as pool:
            programs = list(pool.map(compiled, options))
        timed = []
        for tiles, program in zip(options, programs, strict=True):
            seconds = measure(
                lambda p=program, o=operands: p(*o, sizes), repeats=3, batch_s=0.02
            ).seconds
            timed.append((seconds, tiles))
        timed.sort(key=lambda pair: pair[0])
        for seconds, tiles in timed:
            rate = work.products * shape.tflop / seconds
            print(f"  {work.name:12} {seconds * 1e3:7.3f} ms {rate:6.0f} TFLOP/s  {tiles}")
        best[work.name] = timed[0][0]
        TABLE[work.key] = timed[0][1]
        sys.stdout.flush()
    return best


def forward(implementation: str) -> Callable[..., Any]:
    def run(x, gate, up, down, sizes):
        return gated_mlp(x, gate, up, down, sizes, implementation=implementation)  # type: ignore

    return run


def forward_backward(implementation: str) -> Callable[..., Any]:
    """The MLP's output and all its gradients."""

    def run(x, gate, up, down, dy, sizes):
        out, pull = jax.vjp(lambda *a: forward(implementation)(*a, sizes), x, gate, up, down)
        return out, pull(dy)

    return run


#: Rows and groups of what is checked, the rows no multiple of anything.
CHECKED_ROWS, CHECKED_GROUPS = 4253, 15
#: Sizes of the first groups; the others are empty. The rows left are nobody's, and full of NaN.
CASES = {
    "small groups": (1, 2, 3, 7, 8, 9, 63, 64, 65, 66, 127, 128, 129, 0, 200),
    "empty": (0, 250, 0, 130, 0),
    "all in one": (0, 0, 4253),
    "nobody": (),
    "large": (1000, 313, 2000, 1, 0, 800),
}


def check(implementation: str) -> None:
    """Compares values and gradients with float32 ones: odd sizes, every kind of tile.

    Raises:
        ValueError: an error above what bfloat16 explains.
    """
    worst = 0.0
    d, f = 576, 320
    for dtype in (jnp.float32, jnp.bfloat16):
        shape = Shape(CHECKED_GROUPS, d, f, CHECKED_ROWS)
        for work in works(shape):
            cols = 128 if work.key[0] == "gated" else 256
            TABLE[work.key] = Tiles(cols=cols)
        run, oracle = jax.jit(forward_backward(implementation)), jax.jit(forward_backward("dense"))
        for name, sizes in CASES.items():
            padded = np.zeros(CHECKED_GROUPS, np.int32)
            padded[: len(sizes)] = sizes
            errors = _errors(shape, padded, run, oracle, dtype)
            worst = max(worst, *errors.values())
            if not max(errors.values()) < 2e-2:
                print(f"  WRONG: {name} {d}x{f} {jnp.dtype(dtype)}: {errors}")
        print(f"  {d}x{f}, {jnp.dtype(dtype)} weights: checked", flush=True)
    TABLE.clear()
    TABLE.update(MEASURED)
    print(f"checked against float32: worst relative error {worst:.2e}", flush=True)
    if not worst < 2e-2:
        raise ValueError(f"a relative error of {worst}, where bfloat16 gives less than 2e-2")


def _errors(
    shape: Shape, sizes: np.ndarray, run: Callable[..., Any], oracle: Callable[..., Any], dtype: Any
) -> dict[str, float]:
    values = arrays(shape)
    for name in ("x", "dy"):
        values[name] = values[name].at[int(sizes.sum()) :].set(jnp.nan)
    x, *weights, dy = (values[n] for n in ("x", "gate", "up", "down", "dy"))
    got = run(x, *(w.astype(dtype) for w in weights), dy, sizes)
    with jax.default_matmul_precision("highest"):
        want = oracle(*(a.astype(jnp.float32) for a in (x, *weights, dy)), sizes)
    names = ("out", "dx", "dgate", "dup", "ddown")
    pairs = zip(names, jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return {name: _error(np.asarray(a, np.float64), np.asarray(b)) for name, a, b in pairs}


def _error(got: np.ndarray, want: np.ndarray) -> float:
    error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-9)
    return float(np.nan_to_num(error, nan=np.inf))


def time_mlp(name: str, shape: Shape, values: dict, implementation: str) -> list[dict]:
    """Forward, and forward and backward, for each routing."""
    rows = []
    weights = [values[n] for n in ("gate", "up", "down")]
    once, both = jax.jit(forward(implementation)), jax.jit(forward_backward(implementation))
    for routing in ROUTINGS:
        sizes = jnp.asarray(group_sizes(shape, routing))
        fwd = measure(lambda s=sizes: once(values["x"], *weights, s), repeats=5, batch_s=0.1)
        all_ = measure(
            lambda s=sizes: both(values["x"], *weights, values["dy"], s), repeats=5, batch_s=0.1
        )
        rows.append(
            {
                "shape": name,
                "routing": routing,
                "fwd_ms": fwd.seconds * 1e3,
                "fwd_bwd_ms": all_.seconds * 1e3,
                "tflops": 9 * shape.tflop / all_.seconds,
                "fwd_tflops": 3 * shape.tflop / fwd.seconds,
            }
        )
        print(f"  {implementation}: {_row(rows[-1])}", flush=True)
    return rows


def _row(row: dict) -> str:
    return (
        f"{row['shape']:6} {row['routing']:9} forward {row['fwd_ms']:7.3f} ms "
        f"({row['fwd_tflops']:4.0f} TFLOP/s)  both {row['fwd_bwd_ms']:7.3f} ms "
        f"({row['tflops']:4.0f} TFLOP/s)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["olmoe", "qwen3", "paper"])
    parser.add_argument("--implementation", default="mosaic")
    parser.add_argument("--no-tune", nargs="*", default=[], metavar="SHAPE")
    parser.add_argument("--no-check", action="store_true")
    args = parser.parse_args(argv)
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}", flush=True)
    if not args.no_check:
        check(args.implementation)
    for name in args.shapes:
        shape = SHAPES[name]
        print(f"{name}: {shape}", flush=True)
        values = arrays(shape)
        if name not in args.no_tune:
            tune(shape, values, jnp.asarray(group_sizes(shape, "random")))
        time_mlp(name, shape, values, args.implementation)
        del values
    print("TABLE = " + json.dumps([[list(k), vars(v)] for k, v in TABLE.items()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
