"""A tiny model in an engine, and what it should answer. No tests here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from support.model_cases import VOCAB, arrays, configured, logits_of, parallel_of

from moe_jax.config import Config
from moe_jax.inference.contract import Prompt
from moe_jax.inference.engine import CachedEngine
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.model.skeleton import Skeleton
from moe_jax.session import make_session

CONTEXT = 24
GREEDY = SamplingOptions(temperature=0)
MODEL = (
    "data.document_mask=none",
    f"data.sequence_length={CONTEXT}",
    "train.global_batch=8",
    "model.vocab_size=32",
    "model.attention.windows=[5, 0]",
    "exchange.transport=auto",
    # Rounds happen.
    "exchange.capacity_factor=0.75",
)
EXPERT_8 = ("mesh.expert=8",)


@functools.cache
def session(*overrides: str):
    return make_session(configured(*MODEL, *overrides), "cpu")


@functools.cache
def engine(*overrides: str, slots: int = 8) -> CachedEngine:
    """Returns an engine that others may have used: `freed` it."""
    made = session(*overrides)
    skeleton = made.skeleton
    weights = jax.device_put(arrays(skeleton), skeleton.shardings(made.mesh))
    return CachedEngine(made, weights, slots=slots, context=CONTEXT)


def freed(machine: CachedEngine) -> CachedEngine:
    """Releases what earlier users left running."""
    if machine.idle < machine.slots:
        machine.release([token.slot for token in machine.step()])
    return machine


def prompt(size: int, sampling: SamplingOptions = GREEDY, seed: int = 0) -> Prompt:
    rng = np.random.default_rng([seed, size])
    return Prompt(rng.integers(0, VOCAB, size=size).astype(np.int32), sampling)


@functools.cache
def _forward():
    config: Config = configured(*MODEL, "exchange.transport=local")
    parallel, skeleton = parallel_of(config), Skeleton(config)
    weights = jax.device_put(arrays(skeleton))

    def logits(tokens):
        model = skeleton.merge(weights)
        positions = jnp.broadcast_to(jnp.arange(CONTEXT, dtype=jnp.int32), tokens.shape)
        streams, _ = model.hidden(tokens, positions, jnp.ones_like(tokens), parallel)
        return logits_of(model, streams, parallel)[0]

    return jax.jit(logits)


def next_logits(text: list[int]) -> np.ndarray:
    """Returns [v] for what follows a text, by a full forward pass on one device."""
    padded = np.zeros((1, 1, CONTEXT), np.int32)
    padded[0, 0, : len(text)] = text
    return np.asarray(_forward()(padded)[0, len(text) - 1])


def greedy(
    tokens: np.ndarray,
    count: int,
    *,
    frequency: float = 0.0,
    presence: float = 0.0,
    repetition: float = 1.0,
) -> list[int]:
    """Continues a text with a full forward pass per token, penalised by the published formulas."""
    text = [int(t) for t in tokens]
    for _ in range(count):
        logits = next_logits(text)
        repeated = np.where(logits < 0, logits * repetition, logits / repetition)
        logits = np.where(np.isin(np.arange(logits.size), text), repeated, logits)
        counts = np.bincount(text[tokens.size :], minlength=logits.size)
        text.append(int(np.argmax(logits - frequency * counts - presence * (counts > 0))))
    return text[tokens.size :]
