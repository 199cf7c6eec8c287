"""The rival of `kernels.py`: the same MLP with torch's `_grouped_mm`, compiled, on one GPU.

In the layout torchtitan keeps its experts in. Importing this imports torch.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as nn

from moe_jax.bench.grouped.shapes import ROUTINGS, Shape, group_sizes


def time_torch_mlp(shape: Shape) -> Iterator[str]:
    """Yield a line per routing: the MLP's times, and the rates of single products."""
    x, dy, h = (
        _random(shape.rows, shape.d),
        _random(shape.rows, shape.d),
        _random(shape.rows, shape.f),
    )
    gate, up = (_random(shape.groups, shape.f, shape.d) / shape.d**0.5 for _ in range(2))
    down = _random(shape.groups, shape.d, shape.f) / shape.f**0.5
    for trained in (x, gate, up, down):
        trained.requires_grad_(True)
    compiled = torch.compile(_mlp)
    for routing in ROUTINGS:
        ends = torch.tensor(group_sizes(shape, routing)).cuda().cumsum(0).to(torch.int32)
        with torch.no_grad():
            products = [
                _seconds(lambda e=ends, r=rows, w=weights: _product(r, w, e))
                for rows, weights in ((x, up.transpose(1, 2)), (dy, down), (h.t(), x))
            ]
            forward = _seconds(lambda e=ends: compiled(x, gate, up, down, e))

        def both(ends=ends):
            torch.autograd.grad(compiled(x, gate, up, down, ends), (x, gate, up, down), dy)

        total = _seconds(both)
        rates = [shape.tflop / seconds for seconds in products]
        yield (
            f"{routing:9} forward {forward * 1e3:7.3f} ms ({3 * shape.tflop / forward:4.0f} "
            f"TFLOP/s)  both {total * 1e3:7.3f} ms ({9 * shape.tflop / total:4.0f} TFLOP/s); "
            f"up {rates[0]:.0f}, grad hidden {rates[1]:.0f}, grad weights {rates[2]:.0f} TFLOP/s"
        )


def describe_torch() -> str:
    """Return GPU, version, and the TFLOP/s of a large plain product: what there is to reach."""
    n = 8192
    a, b = _random(n, n), _random(n, n)
    ceiling = 2 * n**3 / 1e12 / _seconds(lambda: a @ b)
    name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}, a large product: {ceiling:.0f} TFLOP/s"


def _random(*size: int) -> torch.Tensor:
    return torch.randn(*size, device="cuda", dtype=torch.bfloat16)


def _product(rows: Any, weights: Any, ends: Any) -> Any:
    # Private, and what torchtitan itself calls: the kernels under it are the rival.
    return torch._grouped_mm(  # pyright: ignore[reportPrivateImportUsage]
        rows, weights, offs=ends
    )


def _mlp(x: Any, gate: Any, up: Any, down: Any, ends: Any) -> Any:
    """Compute the MLP of x [r, d]; gate, up [l, f, d], down [l, d, f]; ends: sums of the sizes."""
    gated, linear = (_product(x, w.transpose(-2, -1), ends) for w in (gate, up))
    return _product(nn.silu(gated) * linear, down.transpose(-2, -1), ends)


def _seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Return the median of calls timed by events."""
    for _ in range(5):
        call()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs) / 1e3
