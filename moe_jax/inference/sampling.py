"""Picks the next token from logits: greedy, or temperature with top-k and top-p."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample.

    Raises:
        ValueError: for a value out of its range.
    """

    #: 0 picks the most likely token.
    temperature: float = 0.8
    #: Only the k most likely tokens compete (0 = all).
    top_k: int = 0
    #: Only the fewest tokens whose probabilities reach p compete (Holtzman et al., 2020).
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature ({self.temperature}) must be 0 (greedy) or more")
        if self.top_k < 0:
            raise ValueError(f"top_k ({self.top_k}) must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p ({self.top_p}) must be above 0 and at most 1 (all tokens)")


def sample(
    logits_bv: Float[Array, "b v"], key: jax.Array, options: SamplingOptions
) -> Int[Array, " b"]:
    """Returns one token id per row. Rows draw independently from one key.

    Args:
        logits_bv: float32; -inf excludes a token.
        key: a JAX random key, used once.
        options: top-k applies before top-p, both after the temperature.
    """
    if options.temperature == 0:
        return jnp.argmax(logits_bv, axis=-1)
    logits_bv = logits_bv / options.temperature
    if options.top_k:
        kth = jax.lax.top_k(logits_bv, min(options.top_k, logits_bv.shape[-1]))[0][:, -1:]
        logits_bv = jnp.where(logits_bv < kth, -jnp.inf, logits_bv)
    if options.top_p < 1:
        logits_bv = _nucleus(logits_bv, options.top_p)
    return jax.random.categorical(key, logits_bv, axis=-1)


def _nucleus(logits_bv: Float[Array, "b v"], top_p: float) -> Float[Array, "b v"]:
    """Excludes tokens that are less likely than the nucleus's least likely one."""
    descending = -jnp.sort(-logits_bv, axis=-1)
    probability = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    last = jnp.sum(before < top_p, axis=-1, keepdims=True) - 1
    cutoff = jnp.take_along_axis(descending, last, axis=-1)
    return jnp.where(logits_bv < cutoff, -jnp.inf, logits_bv)
