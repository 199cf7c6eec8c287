"""Whether two model configurations compute the same, however they are written."""

from typing import Any

from moe_jax.config.model_schema import ModelConfig, RopeConfig
from moe_jax.model.pattern import layer_sequence

#: How a model is trained or computed, not what it computes.
_NOT_THE_MODEL = {
    "init_std",
    "attention.implementation",
    "attention.query_block",
    "moe.router.balance_loss",
    "moe.router.balance_weight",
    "moe.router.z_weight",
    "moe.router.bias_update_rate",
}
#: Rope fields that a kind of scaling reads.
_ROPE_FIELDS = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "ramp", "attention_factor"),
    "longrope": (
        "original_context",
        "attention_factor",
        "short_factors",
        "long_factors",
        "long_attention_factor",
    ),
}


def differences(one: ModelConfig, other: ModelConfig) -> list[str]:
    """Return what of `one` is another in `other`, as text; empty if they compute the same.

    Patterns that repeat to the same layers are the same, and so are settings of parts that the
    model does not have.
    """
    first, second = _essence(one), _essence(other)
    return [
        f"model.{key} = {value!r}"
        for key in first | second
        if first.get(key) != second.get(key)
        for value in [first.get(key, "absent")]
    ]


def _essence(model: ModelConfig) -> dict[str, Any]:
    flat = _flat(model.model_dump(mode="json"))
    specs = layer_sequence(model)
    flat["layers"] = [spec.kind for spec in specs]
    flat["attention.windows"] = [spec.window for spec in specs]
    unused = [*_unused_rope(model.attention.rope), *_unused_sections(model, flat["layers"])]
    router = model.moe.router
    if router.bias_update_rate:
        flat["moe.router.selection_bias"] = "always"
    flat["moe.shared_d_ff"] = model.moe.shared_d_ff or model.moe.d_ff
    return {
        key: value
        for key, value in flat.items()
        if key not in _NOT_THE_MODEL and not key.startswith(tuple(unused))
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _unused_rope(rope: RopeConfig) -> list[str]:
    used = {"theta", "scaling", *_ROPE_FIELDS[rope.scaling]}
    return [f"attention.rope.{name}" for name in RopeConfig.model_fields if name not in used]


def _unused_sections(model: ModelConfig, kinds: list[str]) -> list[str]:
    moe, router = model.moe, model.moe.router
    absent = {
        "attention.latent.": model.attention.kind != "latent",
        "attention.kv_heads": model.attention.kind == "latent",
        "mlp.": "dense" not in kinds,
        "moe.": "moe" not in kinds,
        "moe.shared_d_ff": not moe.shared_experts,
        "moe.shared_gate": not moe.shared_experts,
        "moe.clamp_": moe.activation != "swiglu_clamped",
        "moe.router.sparsemixer_jitter": router.score != "sparsemixer",
        "moe.router.normalize_over": router.score == "sparsemixer",
        "moe.router.top_groups": router.groups == 1,
        "moe.router.group_score": router.groups == 1,
    }
    return [prefix for prefix, is_absent in absent.items() if is_absent]
