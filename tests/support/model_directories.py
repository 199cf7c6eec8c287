"""Small Mixtral directories with random weights, made without transformers. No tests here."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from moe_jax.config import Config, override
from moe_jax.interop.families import FAMILIES
from moe_jax.interop.files.writer import ShardWriter, TensorSpec
from moe_jax.interop.tensors.pieces import pieces

MIXTRAL = FAMILIES["mixtral"]
BF16 = np.dtype(ml_dtypes.bfloat16)
#: What config.json says of these models.
SETTINGS = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "torch_dtype": "bfloat16",
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "router_aux_loss_coef": 0.01,
}


def config_of(*overrides: str) -> Config:
    """Returns the same model as a config of ours."""
    return override(
        Config(),
        [
            "model.vocab_size=48",
            "model.d_model=16",
            "model.num_layers=3",
            "model.norm_eps=1e-5",
            "model.attention.heads=4",
            "model.attention.kv_heads=2",
            "model.attention.head_dim=4",
            "model.moe.d_ff=24",
            "model.moe.num_experts=8",
            "model.moe.activation=swiglu",
            *overrides,
        ],
    )


def specs_of(config: Config, dtype: np.dtype) -> list[TensorSpec]:
    """Returns the tensors of such a model."""
    shapes = {piece.theirs: piece.layout.theirs_shape for piece in pieces(config, MIXTRAL)}
    return [TensorSpec(name, shape, dtype) for name, shape in sorted(shapes.items())]


def tensors_of(config: Config, dtype: np.dtype, scale: float) -> dict[str, np.ndarray]:
    """Returns a random value of every tensor; the same for the same config."""
    rng = np.random.default_rng(0)
    return {
        spec.name: (rng.standard_normal(spec.shape, dtype=np.float32) * scale).astype(dtype)
        for spec in specs_of(config, dtype)
    }


def write_model(
    path: Path,
    config: Config | None = None,
    dtype: np.dtype = BF16,
    most: int = 10_000,
    settings: dict[str, object] | None = None,
    odd: dict[str, np.dtype] | None = None,
    scale: float = 0.1,
) -> dict[str, np.ndarray]:
    """Writes a directory, in several shards; returns its tensors, `odd` ones of other dtypes."""
    path.mkdir(parents=True)
    tensors = tensors_of(config or config_of(), dtype, scale)
    tensors |= {name: tensors[name].astype(other) for name, other in (odd or {}).items()}
    specs = [TensorSpec(name, value.shape, value.dtype) for name, value in tensors.items()]
    with ShardWriter(path, specs, most) as writer:
        for name, value in tensors.items():
            writer.write(name, value)
    (path / "config.json").write_text(json.dumps(SETTINGS | (settings or {})))
    return tensors


def write_large_model(path: Path, layers: int) -> int:
    """Writes a bfloat16 model of 0.5 GB a layer, never holding more than a tensor of it.

    Returns:
        Bytes of its tensors.
    """
    sizes = {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5120}
    ours = ["model.vocab_size=32000", "model.d_model=2048", "model.moe.d_ff=5120"]
    specs = specs_of(config_of(*ours, f"model.num_layers={layers}"), BF16)
    rng = np.random.default_rng(0)
    path.mkdir()
    with ShardWriter(path, specs, 10**9) as writer:
        for spec in specs:
            # Random bits: what compresses well would need less memory.
            writer.write(spec.name, rng.integers(0, 2**15, spec.shape, np.uint16).view(BF16))
    settings = SETTINGS | sizes | {"num_hidden_layers": layers}
    (path / "config.json").write_text(json.dumps(settings))
    return sum(spec.size for spec in specs)
