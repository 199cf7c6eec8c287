"""What attention is checked and timed on: shapes, windows, sinks, packed documents."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

#: How rows are packed: not at all; one document a row; lengths of every magnitude; so many small
#: ones that no call serves them all; exponential of mean 512, as text packs.
Packing = Literal["none", "whole", "mixed", "tiny", "text"]


@dataclass(frozen=True)
class AttentionCase:
    """Attention of `batch` rows of `length` tokens."""

    name: str
    batch: int = 2
    length: int = 1024
    heads: int = 4
    kv_heads: int = 4
    #: Of a head's queries and keys.
    width: int = 64
    #: Of its values; 0: the same.
    value_width: int = 0
    window: int = 0
    packing: Packing = "none"
    sinks: bool = False

    @property
    def values(self) -> int:
        """Width of a head's values."""
        return self.value_width or self.width


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Operands:
    """Arrays of a case, as `dot_attention` takes them, and the gradient of its result."""

    q_bshm: Array
    k_bsgm: Array
    v_bsgn: Array
    segments_bs: Int[Array, "b s"] | None
    sinks_h: Array | None
    do_bshn: Array


#: Each feature, and those that meet in one model.
CHECKED = (
    AttentionCase("plain"),
    AttentionCase("grouped heads", heads=8, kv_heads=2, width=128),
    AttentionCase("window", window=100),
    AttentionCase("odd width", width=44),
    AttentionCase("documents", packing="mixed"),
    AttentionCase("documents, grouped heads", heads=8, kv_heads=2, width=128, packing="mixed"),
    AttentionCase("documents as rows", packing="whole"),
    AttentionCase("documents, tiny", heads=8, kv_heads=1, packing="tiny"),
    AttentionCase("documents, window", packing="mixed", window=100),
    AttentionCase("documents, odd row", length=1002, packing="mixed"),
    AttentionCase("sinks", sinks=True),
    AttentionCase("sinks, window", heads=8, kv_heads=2, sinks=True, window=100),
    AttentionCase("sinks, window, documents", kv_heads=2, sinks=True, window=100, packing="mixed"),
    AttentionCase("width 256", width=256, kv_heads=2),
    AttentionCase("width 256, documents", width=256, packing="mixed"),
    AttentionCase("width 256, documents, sinks", width=256, packing="mixed", sinks=True),
    AttentionCase("latent", width=192, value_width=128),
    AttentionCase("latent, documents", width=192, value_width=128, packing="mixed"),
    AttentionCase("latent, narrow", width=96, value_width=64),
    AttentionCase("latent, wide values", width=72, value_width=120, packing="mixed"),
)
#: As large as in the models they are of.
TIMED = (
    AttentionCase("OLMoE", 4, 4096, 16, 16, 128),
    AttentionCase("OLMoE, packed text", 4, 4096, 16, 16, 128, packing="text"),
    AttentionCase("OLMoE, a document a row", 4, 4096, 16, 16, 128, packing="whole"),
    AttentionCase("Qwen3, packed text", 4, 4096, 32, 4, 128, packing="text"),
    AttentionCase("gpt-oss, full", 4, 4096, 64, 8, 64, packing="text", sinks=True),
    AttentionCase("gpt-oss, window", 4, 4096, 64, 8, 64, window=128, packing="text", sinks=True),
    AttentionCase("width 256", 4, 4096, 8, 4, 256),
    AttentionCase("DeepSeek", 4, 4096, 16, 16, 192, 128),
    AttentionCase("DeepSeek, packed text", 4, 4096, 16, 16, 192, 128, packing="text"),
)
#: What CPUs do in seconds, where time means little.
SMALL = (
    AttentionCase("small", 1, 256, 2, 2, 32),
    AttentionCase("small, packed text", 1, 256, 2, 2, 32, packing="text"),
)


def draw_operands(case: AttentionCase, dtype: str = "bfloat16", seed: int = 0) -> Operands:
    """Return normal operands and packed rows of a case.

    Args:
        case: what is attended.
        dtype: of everything but the sinks, which are float32.
        seed: of the draws.
    """
    key = jax.random.split(jax.random.key(seed), 5)

    def normal(i: int, *shape: int) -> Array:
        return jax.random.normal(key[i], shape, jnp.float32)

    rows, h, g = (case.batch, case.length), case.heads, case.kv_heads
    return Operands(
        q_bshm=normal(0, *rows, h, case.width).astype(dtype),
        k_bsgm=normal(1, *rows, g, case.width).astype(dtype),
        v_bsgn=normal(2, *rows, g, case.values).astype(dtype),
        segments_bs=None if case.packing == "none" else jnp.asarray(packed(case, seed)),
        sinks_h=normal(3, h) if case.sinks else None,
        do_bshn=normal(4, *rows, h, case.values).astype(dtype),
    )


def packed(case: AttentionCase, seed: int = 0) -> Int[np.ndarray, "b s"]:
    """Return the document of each token, from 1 in every row.

    Args:
        case: its packing must not be "none".
        seed: of the lengths.
    """
    rng = np.random.default_rng(seed)

    def length() -> int:
        match case.packing:
            case "mixed":
                return int(np.exp(rng.uniform(0, np.log(case.length))))
            case "tiny":
                return int(rng.integers(1, 40))
            case "text":
                return 1 + int(rng.exponential(512))
            case _:
                return case.length

    rows = np.empty((case.batch, case.length), np.int32)
    for row in rows:
        filled, number = 0, 1
        while filled < case.length:
            end = filled + length()
            row[filled:end] = number
            filled, number = end, number + 1
    return rows
