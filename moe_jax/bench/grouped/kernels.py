"""The grouped matmul's kernels, tuned and timed; `check.py` checks them.

For each shape: on request every product of a layer's forward and backward pass with each candidate
of tiles, then the whole MLP for balanced, random and skewed sizes. Its rival is `torch_mlp.py`,
to be run on the same machine. The command is `moe-jax bench grouped`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from moe_jax.bench.grouped.check import mlp_with_gradients
from moe_jax.bench.grouped.shapes import ROUTINGS, Shape, group_sizes
from moe_jax.bench.harness import measure
from moe_jax.moe.grouped import Implementation, gated_mlp, mosaic_rows, mosaic_weights, swiglu
from moe_jax.moe.grouped.tiles import TABLE, Product, Tiles


@dataclass(frozen=True)
class Operation:
    """One kernel of a layer: its row of the table of tiles, and how to call it."""

    name: str
    key: tuple[Product, int, int]
    #: Of the MLP's products of `Shape.tflop` each.
    products: int
    #: (operands..., sizes, tiles) -> arrays.
    call: Callable[..., Any]
    operands: tuple[str, ...]


def operations(shape: Shape) -> tuple[Operation, ...]:
    """Return all kernels of a forward and a backward pass."""
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
        Operation("gate and up", ("gated", d, f), 2, gated, ("x", "gate", "up")),
        Operation("down", ("rows", f, d), 1, down, ("h", "down")),
        Operation("grad hidden", ("rows_transposed", d, f), 1, grad_hidden, ("dy", "down")),
        Operation("grad rows", ("rows_transposed", 2 * f, d), 2, grad_rows, ("dh", "gate", "up")),
        Operation("grad gate", ("weights", d, f), 1, grad_weights, ("x", "dh")),
        Operation("grad down", ("weights", f, d), 1, grad_weights, ("h", "dy")),
    )


def candidates(operation: Operation) -> Iterator[Tiles]:
    """Yield tiles that fit a Hopper block's shared memory and the operation's columns."""
    product, _, cols = operation.key
    width = 128 if product == "gated" else 256
    for band in (4,) if product == "weights" else (2, 4, 8, 16):
        if cols % width == 0:
            yield Tiles(cols=width, band=band)


def tune(
    shape: Shape,
    operands: dict[str, jax.Array],
    sizes: jax.Array,
    report: Callable[[str], Any] = print,
) -> None:
    """Time every candidate of every kernel, and put the best into the table of this process.

    Args:
        shape: the layer.
        operands: its arrays by name, as `random_operands` makes them.
        sizes: int32 rows of each group.
        report: takes a line per candidate, and the table's new rows.
    """
    for operation in operations(shape):
        timed = sorted(
            _timed(operation, [operands[name] for name in operation.operands], sizes),
            key=lambda pair: pair[0],
        )
        for seconds, tiles in timed:
            rate = operation.products * shape.tflop / seconds
            report(f"  {operation.name:12} {seconds * 1e3:7.3f} ms {rate:6.0f} TFLOP/s  {tiles}")
        if timed:
            TABLE[operation.key] = timed[0][1]
            report(f"    {operation.key}: {timed[0][1]},")


def _timed(
    operation: Operation, operands: list[jax.Array], sizes: jax.Array
) -> list[tuple[float, Tiles]]:
    def compiled(tiles: Tiles) -> Callable[..., Any]:
        function = jax.jit(lambda *args: operation.call(*args, tiles))
        return function.lower(*operands, sizes).compile()

    options = list(candidates(operation))
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(compiled, options))
    times = [
        measure(lambda p=program: p(*operands, sizes), repeats=3, batch_s=0.02).seconds
        for program in programs
    ]
    return list(zip(times, options, strict=True))


@dataclass(frozen=True)
class MlpTime:
    """The MLP's seconds for one routing; rates count the rows' own work."""

    shape: Shape
    routing: str
    forward_s: float
    #: Forward and backward.
    both_s: float

    def line(self) -> str:
        """Return the figures as text."""
        forward, both = 3 * self.shape.tflop / self.forward_s, 9 * self.shape.tflop / self.both_s
        return (
            f"{self.routing:9} forward {self.forward_s * 1e3:7.3f} ms ({forward:4.0f} TFLOP/s)  "
            f"both {self.both_s * 1e3:7.3f} ms ({both:4.0f} TFLOP/s)"
        )


def time_mlp(
    shape: Shape,
    operands: dict[str, jax.Array],
    implementation: Implementation,
    *,
    repeats: int = 5,
    batch_s: float = 0.1,
) -> Iterator[MlpTime]:
    """Time forward, and forward with backward, for each routing.

    Args:
        shape: the layer.
        operands: its arrays by name, as `random_operands` makes them.
        implementation: as `gated_mlp` takes it.
        repeats: batches that are timed.
        batch_s: seconds of a batch, at least.
    """

    def forward(x, gate, up, down, sizes):
        return gated_mlp(x, gate, up, down, sizes, implementation=implementation)

    x, gate, up, down, dy = (operands[name] for name in ("x", "gate", "up", "down", "dy"))
    once, both = jax.jit(forward), jax.jit(mlp_with_gradients(implementation))
    for routing in ROUTINGS:
        sizes = jnp.asarray(group_sizes(shape, routing))
        forward_s, both_s = (
            measure(call, repeats=repeats, batch_s=batch_s).seconds
            for call in (
                lambda s=sizes: once(x, gate, up, down, s),
                lambda s=sizes: both(x, gate, up, down, dy, s),
            )
        )
        yield MlpTime(shape, routing, forward_s, both_s)
