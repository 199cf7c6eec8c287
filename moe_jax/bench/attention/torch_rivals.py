"""The rivals of `times.py`: torch's scaled_dot_product_attention, and flex_attention compiled.

The first where rows are whole and there is no window, the second for everything else but sinks,
which neither has. Importing this imports torch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from moe_jax.bench.attention.cases import AttentionCase, packed
from moe_jax.bench.attention.check import first_line
from moe_jax.bench.attention.times import AttentionTime
from moe_jax.bench.harness import measure


def time_torch_attention(
    cases: Sequence[AttentionCase],
    device: str = "cuda",
    *,
    repeats: int = 5,
    batch_s: float = 0.05,
) -> Iterator[AttentionTime | str]:
    """Yield the time of torch's best attention for each case, bfloat16, or why there is none.

    Args:
        cases: on what; sinks are left out.
        device: of torch.
        repeats: batches that are timed.
        batch_s: seconds of a batch, at least.
    """
    for case in cases:
        try:
            yield _time(case, device, repeats, batch_s)
        except Exception as error:  # whatever a compiler or a library says: reported, and on
            yield f"{case.name:24} {'torch':10} {first_line(error)}"


def _time(case: AttentionCase, device: str, repeats: int, batch_s: float) -> AttentionTime:
    def random(heads: int, width: int) -> torch.Tensor:
        size = (case.batch, heads, case.length, width)
        return torch.randn(*size, device=device, dtype=torch.bfloat16)

    q, k = random(case.heads, case.width), random(case.kv_heads, case.width)
    v, do = random(case.kv_heads, case.values), random(case.heads, case.values)
    for trained in (q, k, v):
        trained.requires_grad_(True)
    name, attend = _attention(case, device)

    def forward() -> Any:
        with torch.no_grad():
            return attend(q, k, v)

    def both() -> Any:
        return torch.autograd.grad(attend(q, k, v), (q, k, v), do)

    forward_s, both_s = (
        measure(_waiting(call, device), repeats=repeats, batch_s=batch_s).seconds
        for call in (forward, both)
    )
    return AttentionTime(case, f"torch {name}", forward_s, both_s)


def _attention(case: AttentionCase, device: str) -> tuple[str, Callable[..., Any]]:
    grouped = case.heads != case.kv_heads
    if case.packing == "none" and not case.window:

        def plain(q: Any, k: Any, v: Any) -> Any:
            return nn.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

        return "sdpa", plain
    segments = packed(case) if case.packing != "none" else np.ones((case.batch, case.length))
    documents = torch.from_numpy(segments).to(device)
    window = case.window or case.length

    def sees(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & (q - k < window) & (documents[b, q] == documents[b, k])

    mask = create_block_mask(sees, case.batch, None, case.length, case.length, device=device)
    compiled = torch.compile(flex_attention)

    def masked(q: Any, k: Any, v: Any) -> Any:
        return compiled(q, k, v, block_mask=mask, enable_gqa=grouped)

    return "flex", masked


def _waiting(call: Callable[[], Any], device: str) -> Callable[[], None]:
    """Return a call whose end the clock sees; waiting costs some microseconds of milliseconds."""

    def run() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
