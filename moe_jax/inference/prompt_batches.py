"""How prompts that start together are spread over devices, and packed into batches to be read.

A prompt is read by the device that has its slot, so each gets a slot where most are free, and
devices read their prompts in waves. Pure bookkeeping on the host: what runs is in `programs.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from moe_jax.inference.contract import Prompt
from moe_jax.inference.sampling_options import SamplingOptions

#: Prompts are padded to a power of two of at least so many tokens: each length compiles anew.
SHORTEST = 16
#: Prompt tokens that a device reads at a time, where several prompts wait for it.
TOKENS_AT_A_TIME = 4096

IDLE = SamplingOptions(temperature=0)


@dataclass(frozen=True)
class SlotLayout:
    """The slots of an engine: consecutive ones belong to a device."""

    shards: int
    per_shard: int
    context: int
    #: Divides the padded length of prompts.
    unit: int
    #: Independent slices of a device's batch, where it has that many prompts.
    streams: int


# Holds an array, so they compare by identity.
@dataclass(frozen=True, eq=False)
class PlacedPrompt:
    """A prompt and its slot; `order` is its place among those that start together."""

    order: int
    prompt: Prompt
    slot: int

    @property
    def size(self) -> int:
        """Tokens of the prompt."""
        return self.prompt.tokens.size


#: Per device, the prompts that it reads at the same time as the others read theirs.
Wave = list[list[PlacedPrompt]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PromptBatch:
    """The prompts of a wave as arrays [streams, devices x rows]; tokens are [.., seq]."""

    tokens: Array
    #: Tokens of each prompt; 1 in rows without one.
    lengths: Array
    #: Row of each prompt among its device's slots; one beyond them: nothing to read.
    rows: Array


@dataclass(frozen=True, eq=False)
class PackedPrompts:
    """A wave, ready to be read."""

    #: Of host arrays, the same in all processes.
    batch: PromptBatch
    #: Of each row of the flattened batch.
    sampling: list[SamplingOptions]
    #: The prompts with their rows in the flattened batch.
    places: list[tuple[int, PlacedPrompt]]


def place(prompts: Sequence[Prompt], used: np.ndarray, slots: SlotLayout) -> list[PlacedPrompt]:
    """Give each prompt a free slot, on the device that has most of them.

    Args:
        prompts: no more than are free.
        used: bool [slots].
        slots: how devices share them.
    """
    free = [list(np.flatnonzero(~part)) for part in used.reshape(slots.shards, -1)]
    placed = []
    for order, prompt in enumerate(prompts):
        shard = max(range(slots.shards), key=lambda s: (len(free[s]), -s))
        placed.append(
            PlacedPrompt(order, prompt, shard * slots.per_shard + int(free[shard].pop(0)))
        )
    return placed


def waves(placed: Sequence[PlacedPrompt], slots: SlotLayout) -> list[Wave]:
    """Return what is read together; a device reads one prompt or as many as it has tokens for.

    Args:
        placed: prompts in their slots.
        slots: how devices share them.

    Returns:
        Waves, the first of which is read first.
    """
    queues: Wave = [[] for _ in range(slots.shards)]
    for one in placed:
        queues[one.slot // slots.per_shard].append(one)
    together: list[Wave] = []
    while any(queues):
        size = _rows(queues, slots)
        together.append([queue[:size] for queue in queues])
        queues = [queue[size:] for queue in queues]
    return together


def pack(wave: Wave, slots: SlotLayout) -> PackedPrompts:
    """Return a wave as arrays. Their shapes take few values, each of which compiles.

    Args:
        wave: of `waves`.
        slots: how devices share them.
    """
    rows = _rows(wave, slots)
    streams = slots.streams if rows % slots.streams == 0 else 1
    shape = (streams, slots.shards, rows // streams)
    length = padded(max(one.size for queue in wave for one in queue), slots)
    # Any: host arrays stand where the batch has those of the mesh later.
    tokens: Any = np.zeros((*shape, length), np.int32)
    lengths: Any = np.ones(shape, np.int32)
    into: Any = np.full(shape, slots.per_shard, np.int32)
    sampling = [IDLE] * lengths.size
    places = []
    for shard, queue in enumerate(wave):
        for row, one in enumerate(queue):
            at = (row // shape[2], shard, row % shape[2])
            tokens[at][: one.size] = one.prompt.tokens
            lengths[at], into[at] = one.size, one.slot % slots.per_shard
            flat = int(np.ravel_multi_index(at, shape))
            sampling[flat] = one.prompt.sampling
            places.append((flat, one))
    flat_shape = (streams, -1)
    batch = PromptBatch(
        tokens.reshape(*flat_shape, length),
        lengths.reshape(flat_shape),
        into.reshape(flat_shape),
    )
    return PackedPrompts(batch, sampling, places)


def padded(size: int, slots: SlotLayout) -> int:
    """Return the length that a prompt is padded to, in tokens.

    Args:
        size: tokens of the prompt.
        slots: their context, and what divides the length.
    """
    length = SHORTEST
    while length < size:
        length *= 2
    length = max(min(length, slots.context), size)
    return -(-length // slots.unit) * slots.unit


def _rows(queues: Wave, slots: SlotLayout) -> int:
    """Return how many prompts a device reads at a time: one, or all that it can."""
    if max(map(len, queues)) == 1:
        return 1
    longest = max(one.size for queue in queues for one in queue)
    return max(1, min(slots.per_shard, TOKENS_AT_A_TIME // padded(longest, slots)))
