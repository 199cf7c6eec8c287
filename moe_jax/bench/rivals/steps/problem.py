"""A whole training step, the same for all: model, tokens and optimiser, as one config."""

from collections.abc import Sequence

from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.config import Config, check, override

#: What a model has besides the layer of that name in `SHAPES`: vocabulary, heads, heads of keys and
#: values, their width, and the norm of queries and keys.
_MODELS = {
    "olmoe": (50304, 16, 16, 128, "all_heads"),
    "qwen3": (151936, 32, 4, 128, "head"),
    "paper": (32000, 32, 32, 128, "none"),
    "tiny": (1000, 4, 4, 64, "all_heads"),
}
#: Of every matrix. Uniform, see `hashed.py`.
STD = 0.02


def step_config(
    shape: str, layers: int, batch: int, length: int, dtype: str, overrides: Sequence[str] = ()
) -> Config:
    """Return the config of a step on one device, checked: what torch computes, too.

    Float32 parameters and AdamW with clipping; no balance loss; nothing is rematerialised.

    Args:
        shape: a name in `SHAPES`.
        layers: of the model.
        batch: sequences.
        length: tokens of each.
        dtype: of compute.
        overrides: of what the others do not have: "exchange.capacity_factor=1".

    Raises:
        UserError: an override is none, or does not suit the rest.
    """
    layer = layer_problem(shape, None, dtype)
    vocabulary, heads, kv_heads, head_dim, qk_norm = _MODELS[shape]
    settings = [
        f"name={shape}_{layers}_layers",
        f"model.vocab_size={vocabulary}",
        f"model.d_model={layer.d}",
        f"model.num_layers={layers}",
        f"model.attention.heads={heads}",
        f"model.attention.kv_heads={kv_heads}",
        f"model.attention.head_dim={head_dim}",
        f"model.attention.qk_norm={qk_norm}",
        f"model.moe.num_experts={layer.experts}",
        f"model.moe.top_k={layer.top_k}",
        f"model.moe.d_ff={layer.f}",
        "model.moe.activation=swiglu",
        f"model.moe.router.normalize_over={'selected' if layer.normalize else 'all'}",
        "model.moe.router.balance_loss=none",
        f"precision.compute={dtype}",
        "data.source=synthetic",
        f"data.sequence_length={length}",
        "data.document_mask=none",
        "optimizer.learning_rate=1e-4",
        "schedule.kind=constant",
        # As torch compiles it.
        "train.scan_layers=false",
        "schedule.warmup_steps=0",
        f"train.global_batch={batch}",
        f"train.loss_chunk={length}",
    ]
    config = override(Config(), [*settings, *overrides])
    check(config)
    return config


def parameters(config: Config) -> int:
    """Return how many matrix elements the model has.

    Args:
        config: of `step_config`.
    """
    model, moe, attention = config.model, config.model.moe, config.model.attention
    heads = 2 * (attention.heads + attention.kv_heads) * attention.head_dim
    layer = model.d_model * (heads + moe.num_experts * (3 * moe.d_ff + 1))
    return model.num_layers * layer + 2 * model.vocab_size * model.d_model
