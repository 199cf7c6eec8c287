"""`python -m moe_jax.bench.grouped_torch`: the rival of `grouped.py`, torch's `_grouped_mm`.

The same MLP in the layout torchtitan keeps its experts in, compiled; imports torch, so it runs in a
process of its own.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as nn

from moe_jax.bench.grouped_shapes import ROUTINGS, SHAPES, Shape, group_sizes


def mlp(x: Any, gate: Any, up: Any, down: Any, ends: Any) -> Any:
    """X [r, d]; gate, up [l, f, d], down [l, d, f]; ends: running sums of the sizes."""
    products = [torch._grouped_mm(x, w.transpose(-2, -1), offs=ends) for w in (gate, up)]
    hidden = nn.silu(products[0]) * products[1]
    return torch._grouped_mm(hidden, down.transpose(-2, -1), offs=ends)


def seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """The median of calls timed by events."""
    for _ in range(5):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs) / 1e3


def bench(name: str, shape: Shape) -> None:
    """Prints the single products' times and the MLP's for each routing."""

    def random(*size):
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16)

    l, d, f, r = shape.groups, shape.d, shape.f, shape.rows  # noqa: E741
    x, dy, h = random(r, d), random(r, d), random(r, f)
    weights = [random(l, f, d) / d**0.5, random(l, f, d) / d**0.5, random(l, d, f) / f**0.5]
    for w in (x, *weights):
        w.requires_grad_(True)
    compiled = torch.compile(mlp)
    for routing in ROUTINGS:
        ends = torch.tensor(group_sizes(shape, routing)).cuda().cumsum(0).to(torch.int32)
        with torch.no_grad():
            up = seconds(lambda e=ends: torch._grouped_mm(x, weights[1].transpose(1, 2), offs=e))
            rows = seconds(lambda e=ends: torch._grouped_mm(dy, weights[2], offs=e))
            grad = seconds(lambda e=ends: torch._grouped_mm(h.t(), x, offs=e))
            fwd = seconds(lambda e=ends: compiled(x, *weights, e))

        def both(ends=ends):
            torch.autograd.grad(compiled(x, *weights, ends), (x, *weights), dy)

        total = seconds(both)
        rates = [shape.tflop / t for t in (up, rows, grad)]
        print(
            f"  torch: {name:6} {routing:9} forward {fwd * 1e3:7.3f} ms "
            f"({3 * shape.tflop / fwd:4.0f} TFLOP/s)  both {total * 1e3:7.3f} ms "
            f"({9 * shape.tflop / total:4.0f} TFLOP/s); up {rates[0]:.0f}, grad hidden "
            f"{rates[1]:.0f}, grad weights {rates[2]:.0f} TFLOP/s",
            flush=True,
        )


def ceiling() -> float:
    """TFLOP/s of a large plain product."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / 1e12 / seconds(lambda: a @ b)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["olmoe", "qwen3", "paper"])
    args = parser.parse_args(argv)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, a large product: "
        f"{ceiling():.0f} TFLOP/s",
        flush=True,
    )
    for name in args.shapes:
        bench(name, SHAPES[name])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
