"""Our parameters' numbers in torch's modules, whose matrices are transposed and partly joined."""

from collections.abc import Callable
from typing import Any

import torch

from moe_jax.bench.rivals.hashed import torch_maker
from moe_jax.bench.rivals.steps.problem import STD
from moe_jax.config.model_schema import ModelConfig

#: Name of a parameter of ours, and its shape within a layer -> the numbers.
Numbers = Callable[[str, tuple[int, ...]], Any]


def fill_plain(model: Any, config: ModelConfig, device: str) -> None:
    """Put the numbers into a `TorchModel`; scales are 1.

    Args:
        model: with parameters of any value.
        config: of the same model.
        device: where numbers are made.
    """
    _fill_outside(model.embedding, model.head, config, device)
    for nth, block in enumerate(model.blocks):
        numbers = _numbers(device, nth)
        q, k, v, out = _attention(config, numbers)
        _put(block.attention.qkv, torch.cat([q, k, v]))
        _put(block.attention.out, out)
        _fill_moe(block.moe.router, block.moe.gate_up, block.moe.down, config, numbers)
    _ones(model)


def fill_transformers(model: Any, config: ModelConfig, device: str) -> None:
    """Put the numbers into transformers' OLMoE.

    Args:
        model: an `OlmoeForCausalLM`.
        config: of the same model.
        device: where numbers are made.
    """
    _fill_outside(model.model.embed_tokens.weight, model.lm_head.weight, config, device)
    for nth, layer in enumerate(model.model.layers):
        numbers, attention, moe = _numbers(device, nth), layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        for projection, matrix in zip(projections, _attention(config, numbers), strict=True):
            _put(projection.weight, matrix)
        experts = moe.experts
        _fill_moe(moe.gate.weight, experts.gate_up_proj, experts.down_proj, config, numbers)
    _ones(model)


def _numbers(device: str, nth: int) -> Numbers:
    make = torch_maker("float32", device)
    return lambda name, shape: make(name, shape, STD, nth)


def _fill_outside(embedding: Any, head: Any, config: ModelConfig, device: str) -> None:
    numbers, shape = _numbers(device, 0), (config.vocab_size, config.d_model)
    _put(embedding, numbers("embedding.w_vd", shape))
    _put(head, numbers("head.output.w_vd", shape))


def _attention(config: ModelConfig, numbers: Numbers) -> tuple[Any, Any, Any, Any]:
    """Return the matrices [out, in] of queries, keys, values and output."""
    d, heads = config.d_model, config.attention
    h, g, m = heads.heads, heads.kv_heads, heads.head_dim
    q = numbers("attention.w_q_dhm", (d, h, m)).flatten(1).t()
    k = numbers("attention.w_k_dgm", (d, g, m)).flatten(1).t()
    v = numbers("attention.w_v_dgm", (d, g, m)).flatten(1).t()
    return q, k, v, numbers("attention.w_out_hmd", (h, m, d)).flatten(0, 1).t()


def _fill_moe(router: Any, gate_up: Any, down: Any, config: ModelConfig, numbers: Numbers) -> None:
    e, d, f = config.moe.num_experts, config.d_model, config.moe.d_ff
    _put(router, numbers("moe.router.w_de", (d, e)).t())
    _put(gate_up[:, :f], numbers("moe.experts.w_gate_edf", (e, d, f)).transpose(1, 2))
    _put(gate_up[:, f:], numbers("moe.experts.w_up_edf", (e, d, f)).transpose(1, 2))
    _put(down, numbers("moe.experts.w_down_efd", (e, f, d)).transpose(1, 2))


def _put(parameter: Any, numbers: Any) -> None:
    with torch.no_grad():
        parameter.copy_(numbers)


def _ones(model: Any) -> None:
    """Scales of norms are the parameters of one dimension."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            _put(parameter, torch.ones_like(parameter))
