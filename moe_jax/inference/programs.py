"""The two compiled functions of generation: prefill and decode, each with the choice of a token.

They own no state: cache and tokens seen so far go in and come out, donated. Which sequence has
which slot, and how prompts are grouped, is decided in `engine.py`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int

from moe_jax.axes import BATCH_AXES
from moe_jax.config import Config
from moe_jax.inference.inference_config import decoding_config
from moe_jax.inference.prompt_batches import PromptBatch
from moe_jax.inference.sampling import Held, Sampled, SamplingArrays, sample
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.cache import Cache, abstract_cache, empty_cache
from moe_jax.model.decoding import decode, prefill
from moe_jax.model.parallel import Parallel, resolve_parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

#: Each read length of a decode step is so many times the one before, from at least the shortest
#: on: each compiles, and together with a step's weights fewer tokens cost next to nothing.
READ_GROWTH = 4
SHORTEST_READ = 256


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SlotMemory:
    """What a model remembers of the sequence in each slot."""

    cache: Cache
    #: Which tokens the sequence holds; its arrays are [slots, vocabulary].
    held: Held


class EnginePrograms:
    """Prefill and decode of one model on one mesh, for a fixed number of slots.

    Args:
        skeleton: the model.
        mesh: where to run, without a pipeline.
        platform: "cpu" or "gpu": what the mesh's devices are, present or not.
        hosts: host of each device along the flattened batch axes.
        slots: a multiple of the devices that the batch is split over.
        context: tokens of a sequence.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        mesh: Mesh,
        *,
        platform: str,
        hosts: tuple[int, ...],
        slots: int,
        context: int,
    ):
        self._skeleton, self._mesh, self._platform, self._hosts = skeleton, mesh, platform, hosts
        config = skeleton.config
        per_token: Any = partial(
            jax.ShapeDtypeStruct,
            (slots, config.model.vocab_size),
            sharding=NamedSharding(mesh, BATCH),
        )
        #: What is remembered, as ShapeDtypeStructs with shardings.
        self.abstract_memory = SlotMemory(
            abstract_cache(config, mesh, slots=slots, context=context),
            Held(per_token(jnp.bool_), per_token(jnp.int32)),
        )
        self._decoding = self._parallel(decoding_config(config, slots), slots // self.shards)
        whole: Any = NamedSharding(mesh, PartitionSpec())
        rows: Any = NamedSharding(mesh, BATCH)
        #: Where results are: a step tells all devices its tokens, and alternatives nobody.
        self._sampled = Sampled(whole, whole, rows, rows)
        #: Puts a step's alternatives on all devices.
        self.gather: Any = jax.jit(lambda arrays: arrays, out_shardings=whole)
        self._decodes: dict[int, Any] = {}
        self._prefills: dict[tuple[int, ...], Any] = {}

    @property
    def shards(self) -> int:
        """Over how many devices slots are split."""
        return len(self._hosts)

    def empty_memory(self) -> SlotMemory:
        """Return the memory of empty slots, created in place."""
        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding),
            self.abstract_memory.held,
        )
        return SlotMemory(empty_cache(self.abstract_memory.cache), blank)

    def prefill(
        self,
        weights: Weights,
        batch: PromptBatch,
        sampling: SamplingArrays,
        memory: SlotMemory,
    ) -> tuple[Sampled, SlotMemory]:
        """Read prompts into their slots; return the first token of each, in the batch's order.

        Compiles for each shape of the batch.

        Args:
            weights: the model's.
            batch: on the mesh.
            sampling: of each row of the flattened batch.
            memory: of all slots; donated.
        """
        shape = batch.tokens.shape
        if shape not in self._prefills:
            _, rows, length = shape
            parallel = self._parallel(self._skeleton.config, rows * length // self.shards)
            self._prefills[shape] = self._jit(partial(self._prefill, parallel))
        return self._prefills[shape](weights, batch, sampling, memory)

    def decode(self, reads: int) -> Any:
        """Return (weights, newest, sampling, memory) -> (Sampled, memory), jitted.

        `_decode` says more. Compiles for each of `read_lengths`.

        Args:
            reads: tokens of a sequence that are read at most, the new one included.
        """
        if reads not in self._decodes:
            self._decodes[reads] = self._jit(partial(self._decode, self._decoding, reads))
        return self._decodes[reads]

    def put(self, array: np.ndarray, *spec: Any) -> jax.Array:
        """Return a host array, the same in all processes, on the mesh."""
        sharding = NamedSharding(self._mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def _parallel(self, config: Config, batch_tokens: int) -> Parallel:
        """Resolve what `auto` means: it depends on how many tokens a device has at a time."""
        return resolve_parallel(
            config,
            self._mesh,
            platform=self._platform,
            hosts=self._hosts,
            batch_tokens=batch_tokens,
        )

    def _jit(self, function: Any) -> Any:
        memory = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_memory)
        return jax.jit(
            function,
            donate_argnames="memory",
            out_shardings=(self._sampled, memory),
            compiler_options=compiler_options(self._platform),
        )

    def _prefill(
        self,
        parallel: Parallel,
        weights: Weights,
        batch: PromptBatch,
        sampling: SamplingArrays,
        memory: SlotMemory,
    ) -> tuple[Sampled, SlotMemory]:
        model = self._skeleton.merge(weights)
        read = (batch.tokens, batch.lengths, batch.rows)
        logits_bv, cache = prefill(model, *read, memory.cache, parallel)
        in_prompts, held = on_device_shards(
            mark_prompts,
            self._mesh,
            in_specs=(PartitionSpec(None, BATCH_AXES), BATCH),
            out_specs=(PartitionSpec(None, BATCH_AXES), BATCH),
        )(batch, memory.held)
        first = jnp.zeros(logits_bv.shape[:1], jnp.int32)
        nothing = jnp.zeros(logits_bv.shape, jnp.int32)
        begun = Held(in_prompts.reshape(logits_bv.shape), nothing)
        return sample(logits_bv, sampling, begun, first), SlotMemory(cache, held)

    def _decode(
        self,
        parallel: Parallel,
        reads: int,
        weights: Weights,
        newest: Int[Array, "b 4"],
        sampling: SamplingArrays,
        memory: SlotMemory,
    ) -> tuple[Sampled, SlotMemory]:
        """`newest` is per slot: the last token, its position, tokens generated, 1 if in use."""
        tokens, positions, index, used = newest.T
        model = self._skeleton.merge(weights)
        at = (tokens, positions, used > 0)
        logits_bv, cache = decode(model, *at, memory.cache, parallel, reads=reads)
        # Every token comes by here once, right after it was generated. An idle slot counts its
        # zeros: a prompt begins from nothing.
        counts = memory.held.counts_bv
        counts += jax.nn.one_hot(tokens, counts.shape[1], dtype=jnp.int32)
        held = Held(memory.held.prompt_bv, counts)
        return sample(logits_bv, sampling, held, index), SlotMemory(cache, held)


def read_lengths(context: int) -> tuple[int, ...]:
    """Return how many tokens of each sequence a decode step may read, ascending to all.

    A step reads what its longest text needs, not the whole cache, but from few lengths: each is a
    program.

    Args:
        context: tokens of a sequence.
    """
    lengths = [context]
    while (shorter := -(-lengths[0] // READ_GROWTH)) >= SHORTEST_READ:
        lengths.insert(0, shorter)
    return tuple(lengths)


def mark_prompts(batch: PromptBatch, held: Held) -> tuple[Bool[Array, "n b v"], Held]:
    """Return which tokens each prompt has, and what slots hold once it is there; on one device."""
    streams, rows, length = batch.tokens.shape
    vocabulary = held.prompt_bv.shape[1]
    valid = jnp.arange(length) < batch.lengths[..., None]
    tokens = jnp.where(valid, batch.tokens, vocabulary).reshape(-1, length)
    blank = jnp.zeros((streams * rows, vocabulary), jnp.bool_)
    marked = blank.at[jnp.arange(streams * rows)[:, None], tokens].set(True, mode="drop")
    into = batch.rows.reshape(-1)
    # What an earlier text of the slot generated goes.
    held = Held(
        held.prompt_bv.at[into].set(marked, mode="drop"),
        held.counts_bv.at[into].set(0, mode="drop"),
    )
    return marked.reshape(streams, rows, vocabulary), held
