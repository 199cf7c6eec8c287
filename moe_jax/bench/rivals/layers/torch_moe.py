"""A plain MoE module in torch, as fast as we could make one; a rival must not be weak.

After torchtitan's: float32 softmax over the router's logits, tokens permuted into the experts'
order, `torch._grouped_mm`, and back. Gate and up are one product. Both permutations are gathers in
either direction, so that no gradient adds atomically. Where the grouped product has no
kernel (no GPU, or float32) a loop over the experts stands in for it.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _Permute(torch.autograd.Function):
    """Rows of tokens in the experts' order: rows[i] = x[order[i] // k]."""

    @staticmethod
    def forward(ctx: Any, x_td: Any, order_r: Any, place_r: Any, top_k: int) -> Any:
        ctx.save_for_backward(place_r)
        ctx.top_k = top_k
        return x_td[order_r // top_k]

    @staticmethod
    def backward(ctx: Any, grad_rd: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (place_r,) = ctx.saved_tensors
        grad_tkd = grad_rd[place_r].view(-1, ctx.top_k, grad_rd.shape[-1])
        return grad_tkd.sum(1, dtype=torch.float32).to(grad_rd.dtype), None, None, None


class _Combine(torch.autograd.Function):
    """Weighted sums of each token's rows: y[t] = sum_k w[t, k] rows[place[t, k]]."""

    @staticmethod
    def forward(ctx: Any, rows_rd: Any, weights_tk: Any, order_r: Any, place_r: Any) -> Any:
        ctx.save_for_backward(rows_rd, weights_tk, order_r, place_r)
        rows_tkd = rows_rd[place_r].view(*weights_tk.shape, -1)
        return (rows_tkd * weights_tk[..., None]).sum(1).to(rows_rd.dtype)

    @staticmethod
    def backward(ctx: Any, grad_td: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows_rd, weights_tk, order_r, place_r = ctx.saved_tensors
        spread_rd = grad_td[order_r // weights_tk.shape[1]]
        grad_rows = (spread_rd * weights_tk.view(-1)[order_r][:, None]).to(rows_rd.dtype)
        # Of each row where it lies: one pass over what `grad_rows` reads anyway.
        dots_r = (spread_rd.float() * rows_rd.float()).sum(-1)
        return grad_rows, dots_r[place_r].view_as(weights_tk), None, None


class TorchMoe(nn.Module):
    """y_t = sum_k w_tk expert(x_t); computes in the dtype of its input, whatever its weights'."""

    def __init__(self, experts: int, top_k: int, d: int, f: int, normalize: bool) -> None:
        super().__init__()
        self.top_k, self.normalize = top_k, normalize
        self.router = nn.Parameter(torch.empty(experts, d))
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * f, d))
        self.down = nn.Parameter(torch.empty(experts, d, f))

    def forward(self, x_td: Any) -> Any:
        """Return [tokens, d] of [tokens, d]."""
        dtype = x_td.dtype
        logits_te = functional.linear(x_td, self.router.to(dtype))
        probs_te = functional.softmax(logits_te, dim=-1, dtype=torch.float32)
        weights_tk, chosen_tk = torch.topk(probs_te, self.top_k, dim=-1)
        if self.normalize:
            weights_tk = weights_tk / weights_tk.sum(-1, keepdim=True)
        sorted_r, order_r = torch.sort(chosen_tk.view(-1).to(torch.int32), stable=True)
        place_r = torch.empty_like(order_r)
        place_r[order_r] = torch.arange(len(order_r), device=order_r.device)
        numbers = torch.arange(len(self.router), device=order_r.device, dtype=torch.int32)
        ends_e = torch.searchsorted(sorted_r, numbers, right=True, out_int32=True)
        rows_rd = _Permute.apply(x_td, order_r, place_r, self.top_k)
        gate_rf, up_rf = _product(rows_rd, self.gate_up.to(dtype), ends_e).chunk(2, dim=-1)
        out_rd = _product(functional.silu(gate_rf) * up_rf, self.down.to(dtype), ends_e)
        return _Combine.apply(out_rd, weights_tk, order_r, place_r)


def _product(rows_ri: Any, w_eoi: Any, ends_e: Any) -> Any:
    """Return [rows, o]: rows of an expert, which end where `ends_e` says, times its weights."""
    if rows_ri.is_cuda and rows_ri.dtype == torch.bfloat16:
        # Private, and what torchtitan itself calls.
        return torch._grouped_mm(  # pyright: ignore[reportPrivateImportUsage]
            rows_ri, w_eoi.transpose(-2, -1), offs=ends_e
        )
    parts = torch.tensor_split(rows_ri, ends_e[:-1].tolist())
    return torch.cat([part @ w_oi.t() for part, w_oi in zip(parts, w_eoi, strict=True)])
