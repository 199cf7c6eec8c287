"""Training steps in torch: our plain model with fused AdamW, transformers' model, and float32."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from moe_jax.bench.rivals.steps.first_steps import two_steps
from moe_jax.bench.rivals.steps.tokens import random_tokens
from moe_jax.bench.rivals.steps.torch_model import TorchModel
from moe_jax.bench.rivals.steps.torch_weights import fill_plain, fill_transformers
from moe_jax.bench.rivals.trial import TorchTrial
from moe_jax.config import Config


def plain_step(config: Config, device: str) -> TorchTrial:
    """Return the step of our plain model: its forward and backward pass are compiled on a GPU.

    Args:
        config: of `step_config`.
        device: "cuda" or "cpu".
    """
    model = _plain_model(config, device, getattr(torch, config.precision.compute))
    forward = torch.compile(model, fullgraph=True) if device == "cuda" else model
    tokens_bs, targets_bs = _batch(config, device)

    def backward() -> Any:
        loss = forward(tokens_bs, targets_bs)
        loss.backward()
        return loss.detach()

    return _run(config, model, backward)


def transformers_step(
    config: Config, device: str, experts: Literal["eager", "grouped_mm"]
) -> TorchTrial:
    """Return the step of transformers' OLMoE under autocast, not compiled.

    Args:
        config: of `step_config`, of a model that OLMoE's code can compute.
        device: "cuda" or "cpu".
        experts: transformers' name of how experts are computed.
    """
    from transformers import OlmoeConfig, OlmoeForCausalLM

    model, moe = config.model, config.model.moe
    assert model.attention.qk_norm == "all_heads", "OLMoE's code knows no other norm"
    theirs: Any = OlmoeConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=moe.d_ff,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.attention.heads,
        num_key_value_heads=model.attention.kv_heads,
        num_experts=moe.num_experts,
        num_experts_per_tok=moe.top_k,
        norm_topk_prob=moe.router.normalize_over == "selected",
        rms_norm_eps=model.norm_eps,
        max_position_embeddings=config.data.sequence_length,
        # A padding token's embedding would get no gradient.
        pad_token_id=None,
        eos_token_id=None,
    )
    # Keyword arguments that its base class takes are not in its signature.
    theirs._experts_implementation, theirs._attn_implementation = experts, "sdpa"
    with torch.device(device):
        network: Any = OlmoeForCausalLM(theirs)
    fill_transformers(network, model, device)
    tokens_bs, targets_bs = _batch(config, device)
    compute = getattr(torch, config.precision.compute)

    def backward() -> Any:
        with torch.autocast(device, compute, enabled=compute != torch.float32):
            logits_bsv = network(input_ids=tokens_bs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_bsv.flatten(0, 1).float(), targets_bs.flatten()
        )
        loss.backward()
        return loss.detach()

    return _run(config, network, backward)


def float32_step(config: Config, device: str) -> TorchTrial:
    """Return our plain model's step in float32, a sequence at a time, so that it fits.

    Args:
        config: of `step_config`.
        device: "cuda" or "cpu".
    """
    model = _plain_model(config, device, torch.float32)
    tokens_bs, targets_bs = _batch(config, device)

    def backward() -> Any:
        total = torch.zeros((), device=device)
        for tokens_s, targets_s in zip(tokens_bs, targets_bs, strict=True):
            loss = model(tokens_s[None], targets_s[None]) / len(tokens_bs)
            loss.backward()
            total += loss.detach()
        return total

    return _run(config, model, backward)


def _plain_model(config: Config, device: str, dtype: torch.dtype) -> TorchModel:
    with torch.device("meta"):
        model = TorchModel(config.model, dtype)
    model = model.to_empty(device=device)
    fill_plain(model, config.model, device)
    return model


def _batch(config: Config, device: str) -> tuple[Any, Any]:
    ids = torch.from_numpy(random_tokens(config)).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _run(config: Config, model: Any, backward: Callable[[], Any]) -> TorchTrial:
    """Return AdamW's step after `backward`, which leaves gradients and returns the loss."""
    settings, parameters = config.optimizer, list(model.parameters())
    optimizer: Any = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )

    def call() -> dict[str, Any]:
        loss = backward()
        return {"loss": loss, "grad_norm": _clipped_step(optimizer, settings.clip_norm)}

    return TorchTrial(call, checked=lambda: two_steps(call))


def _clipped_step(optimizer: Any, limit: float) -> Any:
    """Update, forget the gradients, and return their norm."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm(grads, foreach=True)
    # The fused kernel divides gradients in passing; clipping by itself reads them once more.
    optimizer.grad_scale = (norm / limit).clamp(min=1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
