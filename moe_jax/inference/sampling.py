"""Picks the next token of every row from logits, each row by its own options.

Options are data: rows with different ones share a batch, and nothing compiles again for new ones.
The processors, their order and their formulas are those of Hugging Face's `generate`: repetition
penalty, temperature, top-k, top-p, min-p. OpenAI's are placed as in vLLM: the bias of tokens before
all of them, frequency and presence penalty between the first two. Which options there are is
`sampling_options.py`. What a text holds already and how far it is, the caller keeps; stop strings
and end tokens are the batcher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from moe_jax.inference.sampling_options import (
    MAX_BIASES,
    MAX_TOP_LOGPROBS,
    NO_TOKEN,
    SamplingOptions,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingArrays:
    """Options of a batch, one row each."""

    temperature_b: Float32[Array, " b"]
    top_k_b: Int32[Array, " b"]
    top_p_b: Float32[Array, " b"]
    min_p_b: Float32[Array, " b"]
    repetition_penalty_b: Float32[Array, " b"]
    frequency_penalty_b: Float32[Array, " b"]
    presence_penalty_b: Float32[Array, " b"]
    top_logprobs_b: Int32[Array, " b"]
    #: As many as there may be: `NO_TOKEN` in the places that are left.
    bias_ids_bn: Int32[Array, "b n"]
    bias_bn: Float32[Array, "b n"]
    #: A seed as its upper and lower half: the data of JAX's threefry key.
    seed_b2: UInt32[Array, "b 2"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Held:
    """What the texts of a batch hold, one row each."""

    #: Which tokens the prompt has.
    prompt_bv: Bool[Array, "b v"]
    #: How often each token was generated.
    counts_bv: Int32[Array, "b v"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """The tokens that were picked, and the likeliest ones.

    All of the distribution before bias, penalties, temperature and cuts; in nats.
    """

    ids_b: Int32[Array, " b"]
    logprobs_b: Float32[Array, " b"]
    #: The k likeliest, descending, k at most `MAX_TOP_LOGPROBS`; zeros where no row asks for any.
    top_ids_bk: Int32[Array, "b k"]
    top_logprobs_bk: Float32[Array, "b k"]


def stack(options: Sequence[SamplingOptions]) -> SamplingArrays:
    """Return the options of rows as host arrays, which any mesh takes."""

    def column(field: str, dtype: Any) -> Any:
        return np.array([getattr(one, field) for one in options], dtype)

    bias_ids: Any = np.full((len(options), MAX_BIASES), NO_TOKEN, np.int32)
    bias: Any = np.zeros(bias_ids.shape, np.float32)
    for row, one in enumerate(options):
        for place, (token, value) in enumerate(one.logit_bias):
            bias_ids[row, place], bias[row, place] = token, value
    seed = column("seed", np.uint64)
    halves: Any = np.stack([seed >> 32, seed], axis=1).astype(np.uint32)
    return SamplingArrays(
        column("temperature", np.float32),
        column("top_k", np.int32),
        column("top_p", np.float32),
        column("min_p", np.float32),
        column("repetition_penalty", np.float32),
        column("frequency_penalty", np.float32),
        column("presence_penalty", np.float32),
        column("top_logprobs", np.int32),
        bias_ids,
        bias,
        halves,
    )


def sample(
    logits_bv: Float32[Array, "b v"],
    arrays: SamplingArrays,
    held: Held,
    index_b: Int32[Array, " b"],
) -> Sampled:
    """Pick one token per row; a row's pick depends on nothing but that row.

    Args:
        logits_bv: -inf excludes a token.
        arrays: how each row is sampled.
        held: what each row's text holds.
        index_b: how many tokens were generated in the row before; with the seed it decides the
            draw.
    """
    penalised_bv = _penalise(logits_bv, arrays, held)
    greedy_b = jnp.argmax(penalised_bv, axis=-1)
    ids_b = jax.lax.cond(
        jnp.any(arrays.temperature_b > 0),
        lambda: jnp.where(arrays.temperature_b > 0, _draw(penalised_bv, arrays, index_b), greedy_b),
        lambda: greedy_b,
    )
    chosen_b1 = jnp.take_along_axis(logits_bv, ids_b[:, None], axis=-1)
    total_b1 = jax.nn.logsumexp(logits_bv, axis=-1, keepdims=True)
    top_bk, top_ids_bk = _likeliest(logits_bv, jnp.any(arrays.top_logprobs_b > 0))
    logprobs_b = (chosen_b1 - total_b1)[:, 0]
    return Sampled(ids_b.astype(jnp.int32), logprobs_b, top_ids_bk, top_bk - total_b1)


def process(
    logits_bv: Float32[Array, "b v"], arrays: SamplingArrays, held: Held
) -> Float32[Array, "b v"]:
    """Return the logits that a row with temperature is drawn from, up to a constant of the row."""
    return _restrict(_penalise(logits_bv, arrays, held), arrays)


def _likeliest(
    logits_bv: Float32[Array, "b v"], asked: Bool[Array, ""]
) -> tuple[Float32[Array, "b k"], Int32[Array, "b k"]]:
    """Return the largest logits and their tokens, of equal ones the first; zeros unless asked."""
    size = min(MAX_TOP_LOGPROBS, logits_bv.shape[1])

    def likeliest() -> Any:
        tokens_bv = jax.lax.broadcasted_iota(jnp.int32, logits_bv.shape, 1)
        # Not top_k: XLA's partitioner gives every device all rows of it, and on GPUs, in a branch,
        # then refuses its own shapes (JAX 0.10.2).
        negative_bv, ids_bv = jax.lax.sort((-logits_bv, tokens_bv), num_keys=1)
        return -negative_bv[:, :size], ids_bv[:, :size]

    def nothing() -> Any:
        return jnp.zeros_like(logits_bv[:, :size]), jnp.zeros((len(logits_bv), size), jnp.int32)

    return jax.lax.cond(asked, likeliest, nothing)


def _penalise(
    logits_bv: Float32[Array, "b v"], arrays: SamplingArrays, held: Held
) -> Float32[Array, "b v"]:
    logits_bv = _bias(logits_bv, arrays)
    generated_bv = held.counts_bv > 0
    penalty_b1 = arrays.repetition_penalty_b[:, None]
    penalised_bv = jnp.where(logits_bv < 0, logits_bv * penalty_b1, logits_bv / penalty_b1)
    penalised_bv = jnp.where(held.prompt_bv | generated_bv, penalised_bv, logits_bv)
    penalised_bv -= arrays.frequency_penalty_b[:, None] * held.counts_bv.astype(jnp.float32)
    return penalised_bv - jnp.where(generated_bv, arrays.presence_penalty_b[:, None], 0.0)


def _bias(logits_bv: Float32[Array, "b v"], arrays: SamplingArrays) -> Float32[Array, "b v"]:
    def add(logits_v: Any, ids_n: Any, bias_n: Any) -> Any:
        return logits_v.at[ids_n].add(bias_n, mode="drop")

    return jax.lax.cond(
        jnp.any(arrays.bias_bn != 0),
        lambda: jax.vmap(add)(logits_bv, arrays.bias_ids_bn, arrays.bias_bn),
        lambda: logits_bv,
    )


def _draw(
    logits_bv: Float32[Array, "b v"], arrays: SamplingArrays, index_b: Int32[Array, " b"]
) -> Int32[Array, " b"]:
    keys_b = jax.random.wrap_key_data(arrays.seed_b2, impl="threefry2x32")
    keys_b = jax.vmap(jax.random.fold_in)(keys_b, index_b)
    # One key per row: noise of the whole batch from one key would depend on the row's place.
    return jax.vmap(jax.random.categorical)(keys_b, _restrict(logits_bv, arrays))


def _restrict(logits_bv: Float32[Array, "b v"], arrays: SamplingArrays) -> Float32[Array, "b v"]:
    """Apply temperature and cuts."""
    # The likeliest is at 0, so that the smallest temperature leaves it finite.
    logits_bv = logits_bv - jnp.max(logits_bv, axis=-1, keepdims=True)
    smallest = jnp.finfo(jnp.float32).tiny
    logits_bv = logits_bv / jnp.maximum(arrays.temperature_b, smallest)[:, None]
    logits_bv = jax.lax.cond(
        jnp.any((arrays.top_k_b > 0) | (arrays.top_p_b < 1)),
        lambda: jnp.where(logits_bv < _cutoff(logits_bv, arrays), -jnp.inf, logits_bv),
        lambda: logits_bv,
    )
    return jnp.where(logits_bv < jnp.log(arrays.min_p_b)[:, None], -jnp.inf, logits_bv)


def _cutoff(logits_bv: Float32[Array, "b v"], arrays: SamplingArrays) -> Float32[Array, "b 1"]:
    """Return the smallest logit that top-k, and top-p among what top-k leaves, let through.

    Tokens as likely as the last one stay: which of them came first would be arbitrary.
    """
    descending_bv = -jnp.sort(-logits_bv, axis=-1)
    size = logits_bv.shape[-1]
    top_k_b = jnp.where(arrays.top_k_b > 0, jnp.minimum(arrays.top_k_b, size), size)
    kth_b1 = jnp.take_along_axis(descending_bv, top_k_b[:, None] - 1, axis=-1)
    kept_bv = jnp.where(descending_bv < kth_b1, -jnp.inf, descending_bv)
    probability_bv = jax.nn.softmax(kept_bv, axis=-1)
    before_bv = jnp.cumsum(probability_bv, axis=-1) - probability_bv
    # At least the first, also where top_p is 0 in float32; all possible ones where it is 1,
    # whatever rounding makes of the sum.
    smallest = jnp.finfo(jnp.float32).tiny
    top_p_b1 = jnp.maximum(arrays.top_p_b, smallest)[:, None]
    inside_bv = (before_bv < top_p_b1) | (top_p_b1 >= 1)
    inside_bv &= kept_bv > -jnp.inf
    last_b1 = jnp.sum(inside_bv, axis=-1, keepdims=True, dtype=jnp.int32) - 1
    return jnp.take_along_axis(kept_bv, last_b1, axis=-1)
