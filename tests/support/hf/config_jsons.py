"""config.json of published models, and small ones of any family. No tests here."""

import json
from typing import Any

from support.places import TESTS

from moe_jax.config.model_schema import ModelConfig
from moe_jax.interop.config_json import to_config

#: By name: what their authors publish, and how many billions of parameters they count.
PUBLISHED = json.loads((TESTS / "interop" / "published.json").read_text(encoding="utf-8"))
#: Sizes that every family needs; further fields take the family's usual values.
SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "yarn"}


def small(model_type: str, **fields: Any) -> dict[str, Any]:
    """Return the config.json of a small model."""
    return SMALL | {"model_type": model_type} | fields


def of(model_type: str, **fields: Any) -> ModelConfig:
    """Return our model of a small config.json."""
    return to_config(small(model_type, **fields)).model


def published(name: str) -> ModelConfig:
    """Return our model of a published one."""
    return to_config(PUBLISHED[name]["config"]).model
