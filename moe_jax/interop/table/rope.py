"""Rotary positions: `rope_parameters`, or the older `rope_theta` and `rope_scaling`, and ours."""

import math
from dataclasses import dataclass
from typing import Any

from moe_jax.config.model_schema import ModelConfig, RopeConfig
from moe_jax.errors import UserError
from moe_jax.interop.table.setting import Fields, Values

#: Theirs -> ours, for every kind that has the key.
_NAMES = {
    "rope_theta": "theta",
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "short_factor": "short_factors",
    "long_factor": "long_factors",
    "attention_factor": "attention_factor",
    "short_mscale": "attention_factor",
    "long_mscale": "long_attention_factor",
}
#: Kind of theirs -> kind of ours, and what it reads besides the base.
_KINDS = {
    kind: (ours, tuple(names.split()))
    for kind, ours, names in (
        ("default", "none", ""),
        ("linear", "linear", "factor"),
        (
            "llama3",
            "llama3",
            "factor low_freq_factor high_freq_factor original_max_position_embeddings",
        ),
        (
            "yarn",
            "yarn",
            "factor original_max_position_embeddings beta_fast beta_slow truncate "
            "attention_factor mscale mscale_all_dim",
        ),
        (
            "longrope",
            "longrope",
            "factor original_max_position_embeddings short_factor long_factor "
            "attention_factor short_mscale long_mscale",
        ),
    )
}
#: Keys that a kind has no usual value for.
_NEEDED = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}
#: Keys whose values are not numbers.
_OTHERS = ("rope_type", "type", "truncate", "short_factor", "long_factor")
_ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True)
class Rope:
    """Rotary positions of grouped attention."""

    #: LongRoPE says what multiplies queries and keys as `short_mscale` and `long_mscale` (Phi-MoE).
    mscales: bool = False
    keys: tuple[str, ...] = (
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "original_max_position_embeddings",
    )

    def read(self, fields: Fields) -> Values:
        rope = _parameters(fields)
        kind = rope.get("rope_type", rope.get("type", "default"))
        needed = ("short_mscale", "long_mscale") if self.mscales and kind == "longrope" else ()
        _check(fields, kind, rope, needed)
        found: Values = {"scaling": _KINDS[kind][0]}
        found |= {
            ours: rope[theirs]
            for theirs, ours in _NAMES.items()
            if rope.get(theirs) is not None and (theirs in _KINDS[kind][1] or "theta" in theirs)
        }
        if kind in ("yarn", "longrope"):
            found["factor"] = _factor(fields, rope)
        if kind == "yarn":
            found["ramp"] = "whole" if rope.get("truncate", True) else "exact"
            found["attention_factor"] = _yarn_attention_factor(rope, found["factor"])
        if kind == "longrope" and not self.mscales:
            found["attention_factor"] = _longrope_attention_factor(rope, found["factor"])
        return {f"attention.rope.{name}": value for name, value in found.items()}

    def write(self, model: ModelConfig) -> Values:
        return {"rope_parameters": self.parameters(model.attention.rope)}

    def parameters(self, rope: RopeConfig) -> Values:
        """Return the `rope_parameters` of a rope of ours."""
        kind, names = next(
            (theirs, names) for theirs, (ours, names) in _KINDS.items() if ours == rope.scaling
        )
        unused = ("attention_factor",) if self.mscales else ("short_mscale", "long_mscale")
        found: Values = {"rope_type": kind, "rope_theta": rope.theta}
        for name in names:
            value = getattr(rope, _NAMES[name]) if name in _NAMES else None
            if name not in unused and value not in (None, 0.0):
                found[name] = list(value) if isinstance(value, tuple) else value
        if kind == "yarn":
            found["truncate"] = rope.ramp == "whole"
        return found


@dataclass(frozen=True)
class LatentRope(Rope):
    """Rotary positions of DeepSeek, whose YaRN changes the scale of the logits too."""

    def read(self, fields: Fields) -> Values:
        found = super().read(fields)
        rope = _parameters(fields)
        width = fields["qk_nope_head_dim"] + fields["qk_rope_head_dim"]
        scale = 0.0
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            mscale = _mscale(_factor(fields, rope), rope.get("mscale_all_dim") or 0.0)
            scale = mscale**2 / math.sqrt(width) if mscale != 1.0 else 0.0
        return found | {"attention.scale": scale}

    def write(self, model: ModelConfig) -> Values:
        attention = model.attention
        rope = self.parameters(attention.rope)
        width = attention.head_dim + attention.latent.rope_head_dim
        mscale = math.sqrt(attention.scale * math.sqrt(width)) if attention.scale else 1.0
        if mscale != 1.0:
            if attention.rope.factor <= 1.0:
                raise UserError(
                    f"model.attention.scale = {attention.scale} needs model.attention.rope.factor "
                    f"above 1, it is {attention.rope.factor}"
                )
            # Rounded: the square root and the logarithm are undone to the last bit but one.
            rope["mscale_all_dim"] = round((mscale - 1) / (0.1 * math.log(rope["factor"])), 12)
        return {"rope_parameters": rope}


def _parameters(fields: Fields) -> dict[str, Any]:
    """Return one table of the rope, whichever way the file writes it."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(fields.get(name), dict | None):
            raise fields.refuse(name, fields[name], "it must be an object")
    rope = dict(fields.get("rope_scaling") or fields.get("rope_parameters") or {})
    for name, value in rope.items():
        if isinstance(value, dict):
            raise fields.refuse(
                f"rope_parameters.{name}", value, "layers have rotary positions of their own"
            )
    for name in ("rope_theta", "partial_rotary_factor"):
        if rope.get(name) is None and fields.get(name) is not None:
            rope[name] = fields[name]
    if rope.get("rope_theta") is None:
        raise fields.refuse("rope_theta", None, "it must have a value")
    # A field of the model itself comes before the table's (Phi).
    original = fields.get("original_max_position_embeddings")
    if original is not None:
        rope["original_max_position_embeddings"] = original
    rope.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    original = rope["original_max_position_embeddings"]
    if original is not None and (type(original) is not int or original < 2):
        reason = "it must be a whole number from 2"
        raise fields.refuse("original_max_position_embeddings", original, reason)
    return rope


def _check(fields: Fields, kind: str, rope: dict[str, Any], needed: tuple[str, ...]) -> None:
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise fields.refuse("rope_parameters.rope_type", kind, f"known are {known}")
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        value = rope["partial_rotary_factor"]
        raise fields.refuse("partial_rotary_factor", value, "whole heads are rotated")
    for name in (*_NEEDED.get(kind, ()), *needed):
        if rope.get(name) is None:
            raise fields.refuse("rope_parameters.rope_type", kind, f"it needs {name}")
    # Files leave keys of other kinds behind, which transformers does not read.
    known_keys = {key for _, keys in _KINDS.values() for key in keys} | set(_ALWAYS)
    for name, value in rope.items():
        if name not in known_keys and value is not None:
            raise fields.refuse(f"rope_parameters.{name}", value, "it is not known")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in _OTHERS and value is not None and not (number and 0 <= value < math.inf):
            raise fields.refuse(f"rope_parameters.{name}", value, "it must be a number from 0")


def _factor(fields: Fields, rope: dict[str, Any]) -> float:
    if rope.get("factor") is not None:
        return rope["factor"]
    return fields["max_position_embeddings"] / rope["original_max_position_embeddings"]


def _mscale(factor: float, mscale: float) -> float:
    """Return the temperature of YaRN (Peng et al., 2023, eq. 15), times DeepSeek's `mscale`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn_attention_factor(rope: dict[str, Any], factor: float) -> float:
    """Return the factor; 0 leaves it to YaRN's formula."""
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, mscale) / _mscale(factor, all_dim)
    return 0.0


def _longrope_attention_factor(rope: dict[str, Any], factor: float) -> float:
    """Return the factor of LongRoPE (Ding et al., 2024, section 3.3)."""
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    original = rope["original_max_position_embeddings"]
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
