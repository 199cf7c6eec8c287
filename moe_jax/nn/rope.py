"""Rotary position embedding and its context-extension variants.

The rotation pairs dimension i with i + m/2 (the "rotate half" layout of Hugging Face weights).
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moe_jax.config.model_schema import RopeConfig


def frequencies(config: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    """Return what rotates queries and keys, and what multiplies them.

    Args:
        config: how positions are encoded, and how the context is extended.
        head_dim: width of what is rotated.

    Returns:
        The angular frequency of each pair [head_dim / 2] in float64, and the factor: 1 except for
        YaRN and LongRoPE, unless the config says.
    """
    base = config.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    scale = {
        "none": _unscaled,
        "linear": _linear,
        "llama3": _llama3,
        "yarn": _yarn,
        "longrope": _longrope,
    }
    inv_freq, factor = scale[config.scaling](config, base, head_dim)
    return inv_freq, _given_factor(config) or factor


def _given_factor(config: RopeConfig) -> float:
    if config.scaling == "longrope" and config.factors == "long":
        return config.long_attention_factor or config.attention_factor
    return config.attention_factor


def rotate(
    x_bshm: Float[Array, "b s h m"],
    positions_bs: Int[Array, "b s"],
    config: RopeConfig,
) -> Float[Array, "b s h m"]:
    """Rotates each pair of dimensions by position x frequency (Su et al., 2021, eq. 34)."""
    inv_freq, factor = frequencies(config, x_bshm.shape[-1])
    angle = positions_bs[..., None, None].astype(jnp.float32) * jnp.asarray(inv_freq, jnp.float32)
    cos, sin = jnp.cos(angle) * factor, jnp.sin(angle) * factor
    first, second = jnp.split(x_bshm.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x_bshm.dtype)


def _unscaled(config: RopeConfig, base: np.ndarray, head_dim: int) -> tuple[np.ndarray, float]:
    return base, 1.0


def _linear(config: RopeConfig, base: np.ndarray, head_dim: int) -> tuple[np.ndarray, float]:
    """Position interpolation (Chen et al., 2023)."""
    return base / config.factor, 1.0


def _llama3(config: RopeConfig, base: np.ndarray, head_dim: int) -> tuple[np.ndarray, float]:
    """Llama 3.1: long wavelengths are interpolated, short ones kept, with a blend between."""
    turns = config.original_context * base / (2 * math.pi)
    blend = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return (1 - blend) * base / config.factor + blend * base, 1.0


def _yarn(config: RopeConfig, base: np.ndarray, head_dim: int) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al., 2023): a ramp over dimensions, and a temperature on the logits."""

    def dimension(turns: float) -> float:
        ratio = config.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.ramp == "whole":
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2) - low) / max(high - low, 0.001)
    keep = 1 - np.clip(ramp, 0.0, 1.0)
    temperature = 0.1 * math.log(config.factor) + 1.0
    return base / config.factor * (1 - keep) + base * keep, temperature


def _longrope(config: RopeConfig, base: np.ndarray, head_dim: int) -> tuple[np.ndarray, float]:
    """LongRoPE (Ding et al., 2024): each frequency has a divisor of its own."""
    chosen = config.long_factors if config.factors == "long" else config.short_factors
    temperature = math.sqrt(1 + math.log(config.factor) / math.log(config.original_context))
    return base / np.array(chosen), temperature
