"""A plain decoder of MoE layers in torch: the rival of a whole step; one graph when compiled.

Float32 parameters, each cast where it is used; norms, rotation and loss in float32; attention by
`scaled_dot_product_attention`, which takes flash or cuDNN kernels. The same equations as ours.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from moe_jax.bench.rivals.layers.torch_moe import TorchMoe
from moe_jax.config.model_schema import ModelConfig


def _linear(x: Any, w_oi: Any) -> Any:
    return functional.linear(x, w_oi.to(x.dtype))


def _norm(x: Any, scale: Any, eps: float) -> Any:
    return functional.rms_norm(x.float(), (x.shape[-1],), scale.float(), eps).to(x.dtype)


def _rotated(x_bhsm: Any, cos_sm: Any, sin_sm: Any) -> Any:
    first, second = x_bhsm.float().chunk(2, dim=-1)
    turned = (first * cos_sm - second * sin_sm, second * cos_sm + first * sin_sm)
    return torch.cat(turned, dim=-1).to(x_bhsm.dtype)


class TorchAttention(nn.Module):
    """Causal attention with grouped keys and values, and RMSNorm of queries and keys."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.attention
        self.widths = tuple(h * config.head_dim for h in (config.heads, config.kv_heads))
        self.head_dim, self.eps, self.qk_norm = config.head_dim, model.norm_eps, config.qk_norm
        queries, keys = self.widths
        self.qkv = nn.Parameter(torch.empty(queries + 2 * keys, model.d_model))
        self.out = nn.Parameter(torch.empty(model.d_model, queries))
        if self.qk_norm != "none":
            of_heads = self.qk_norm == "all_heads"
            self.q_scale = nn.Parameter(torch.empty(queries if of_heads else config.head_dim))
            self.k_scale = nn.Parameter(torch.empty(keys if of_heads else config.head_dim))

    def forward(self, x_bsd: Any, cos_sm: Any, sin_sm: Any) -> Any:
        """Return what is added to the residual stream."""
        queries, keys = self.widths
        q, k, v = _linear(x_bsd, self.qkv).split((queries, keys, keys), dim=-1)
        if self.qk_norm == "all_heads":
            q, k = _norm(q, self.q_scale, self.eps), _norm(k, self.k_scale, self.eps)
        q, k, v = (a.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for a in (q, k, v))
        if self.qk_norm == "head":
            q, k = _norm(q, self.q_scale, self.eps), _norm(k, self.k_scale, self.eps)
        o_bhsm = functional.scaled_dot_product_attention(
            _rotated(q, cos_sm, sin_sm),
            _rotated(k, cos_sm, sin_sm),
            v,
            is_causal=True,
            enable_gqa=queries != keys,
        )
        return _linear(o_bhsm.transpose(1, 2).flatten(2), self.out)


class TorchBlock(nn.Module):
    """Attention, then experts, each on the norm of what is before it."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        moe = model.moe
        self.eps = model.norm_eps
        self.attention_norm = nn.Parameter(torch.empty(model.d_model))
        self.attention = TorchAttention(model)
        self.moe_norm = nn.Parameter(torch.empty(model.d_model))
        normalize = moe.router.normalize_over == "selected"
        self.moe = TorchMoe(moe.num_experts, moe.top_k, model.d_model, moe.d_ff, normalize)

    def forward(self, x_bsd: Any, cos_sm: Any, sin_sm: Any) -> Any:
        """Return the residual stream after the block."""
        x_bsd = x_bsd + self.attention(_norm(x_bsd, self.attention_norm, self.eps), cos_sm, sin_sm)
        y_td = self.moe(_norm(x_bsd, self.moe_norm, self.eps).flatten(0, 1))
        return x_bsd + y_td.view_as(x_bsd)


class TorchModel(nn.Module):
    """Tokens and targets [b, s] -> mean cross-entropy in nats."""

    def __init__(self, model: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.eps, self.rope = dtype, model.norm_eps, model.attention.rope
        self.head_dim = model.attention.head_dim
        self.embedding = nn.Parameter(torch.empty(model.vocab_size, model.d_model))
        self.blocks = nn.ModuleList(TorchBlock(model) for _ in range(model.num_layers))
        self.norm = nn.Parameter(torch.empty(model.d_model))
        self.head = nn.Parameter(torch.empty(model.vocab_size, model.d_model))

    def forward(self, tokens_bs: Any, targets_bs: Any) -> Any:
        """Return the mean loss of a batch."""
        logits_tv = _linear(self._hidden(tokens_bs).flatten(0, 1), self.head)
        return functional.cross_entropy(logits_tv.float(), targets_bs.flatten())

    def _hidden(self, tokens_bs: Any) -> Any:
        cos_sm, sin_sm = self._rotation(tokens_bs)
        x_bsd = functional.embedding(tokens_bs, self.embedding).to(self.dtype)
        for block in self.blocks:
            x_bsd = block(x_bsd, cos_sm, sin_sm)
        return _norm(x_bsd, self.norm, self.eps)

    def _rotation(self, tokens_bs: Any) -> tuple[Any, Any]:
        device = tokens_bs.device
        half = torch.arange(0, self.head_dim, 2, device=device, dtype=torch.float32)
        position = torch.arange(tokens_bs.shape[1], device=device, dtype=torch.float32)
        angle_sm = position[:, None] * self.rope.theta ** (-half / self.head_dim)
        return angle_sm.cos(), angle_sm.sin()
