"""The engine: a model that continues several texts at a time, each in a slot of its cache.

Slots are split over the devices like a batch. A prompt is read by the device that has its slot;
prompts that start together are read together. Who gets a slot when, and when a text ends, is
decided in `batcher.py`; how prompts are read together in `prompt_batches.py`; what runs on the
devices in `programs.py`.
"""

import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from moe_jax.axes import BATCH_AXES
from moe_jax.config import Config
from moe_jax.errors import UserError
from moe_jax.inference.checks import check_context
from moe_jax.inference.contract import Alternatives, Prompt, Token
from moe_jax.inference.programs import EnginePrograms, read_lengths
from moe_jax.inference.prompt_batches import IDLE, SlotLayout, Wave, pack, place, waves
from moe_jax.inference.sampling import Sampled, SamplingArrays, stack
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.model.weights import Weights
from moe_jax.session import Session


class CachedEngine:
    """Implements `contract.Engine` with a cache on a mesh.

    Args:
        session: the model and its mesh; the config's exchange must not drop tokens.
        weights: the model's values.
        slots: texts at a time.
        context: tokens of a text, prompt included.

    Raises:
        UserError: for a pipeline, an exchange that drops tokens, slots that the devices cannot
            share equally, or a context that the model is not made for.
    """

    def __init__(self, session: Session, weights: Weights, *, slots: int, context: int):
        check_decoding(session.config, slots=slots)
        _check_context(session.config, context)
        self.slots, self.context = slots, context
        self.vocab_size = session.config.model.vocab_size
        self._config = session.config
        self._weights = weights
        self._programs = EnginePrograms(
            session.skeleton,
            session.mesh,
            platform=session.platform,
            hosts=session.parallel.exchange_spec.hosts,
            slots=slots,
            context=context,
        )
        self._read_lengths = read_lengths(context)
        self._memory = self._programs.empty_memory()
        self._slots = SlotLayout(
            shards=self._programs.shards,
            per_shard=slots // self._programs.shards,
            context=context,
            unit=session.config.mesh.tensor,
            streams=session.config.exchange.streams,
        )
        #: Per slot: last token, its position, tokens generated, whether in use.
        self._newest = np.zeros((slots, 4), np.int32)
        self._options = [IDLE] * slots
        self._sampling: SamplingArrays | None = None

    @property
    def idle(self) -> int:
        """How many slots are free."""
        return self.slots - int(self._newest[:, 3].sum())

    def start(self, prompts: Sequence[Prompt]) -> list[Token]:
        """Put prompts into free slots and return the first token of each, in their order.

        Args:
            prompts: checked ones (see `checks.py`), fewer tokens each than the context.

        Raises:
            UserError: for more prompts than free slots.
        """
        if len(prompts) > self.idle:
            raise UserError(
                f"{len(prompts)} prompts for {self.idle} free slots of {self.slots}: release "
                "slots first"
            )
        self._assert_checked(prompts)
        first: dict[int, Token] = {}
        placed = place(prompts, self._newest[:, 3] > 0, self._slots)
        for wave in waves(placed, self._slots):
            first |= self._read(wave)
        return [first[order] for order in range(len(prompts))]

    def step(self) -> list[Token]:
        """Return the next token of every slot in use.

        Raises:
            UserError: no slot is in use, or one has filled its context.
        """
        used = np.flatnonzero(self._newest[:, 3])
        if used.size == 0:
            raise UserError("no text is under way: start one before the next step")
        full = used[self._newest[used, 1] >= self.context - 1]
        if full.size:
            raise UserError(
                f"slots {full.tolist()} have filled their context of {self.context} tokens: "
                "release them"
            )
        if self._sampling is None:
            self._sampling = self._on_mesh(self._options)
        newest = self._programs.put(self._newest, BATCH_AXES)
        longest = int(self._newest[used, 1].max()) + 1
        decode = self._programs.decode(next(n for n in self._read_lengths if n >= longest))
        sampled, self._memory = decode(self._weights, newest, self._sampling, self._memory)
        tokens = self._tokens(sampled, self._options, [(slot, slot) for slot in used.tolist()])
        self._newest[used, 0] = [token.id for token in tokens]
        self._newest[used, 1:3] += 1
        return tokens

    def release(self, slots: Iterable[int]) -> None:
        """Free slots; what they held is forgotten.

        Args:
            slots: those of tokens that `start` returned.

        Raises:
            UserError: for a slot that is not in use.
        """
        for slot in slots:
            if not (0 <= slot < self.slots and self._newest[slot, 3]):
                raise UserError(f"slot {slot} is not in use: release each started slot once")
            self._newest[slot] = 0
            self._options[slot] = IDLE
        self._sampling = None

    def _assert_checked(self, prompts: Sequence[Prompt]) -> None:
        """Hold prompts to what is silent otherwise: too long ones are cut, wrong ids clamped."""
        for prompt in prompts:
            ids = prompt.tokens
            assert 0 < ids.size < self.context, (
                f"{ids.size} tokens in a context of {self.context}: prompts come checked, see "
                "inference/checks.py"
            )
            assert 0 <= ids.min() <= ids.max() < self.vocab_size, (
                f"ids from {ids.min()} to {ids.max()} in a vocabulary of {self.vocab_size}: "
                "prompts come checked, see inference/checks.py"
            )

    def _read(self, wave: Wave) -> dict[int, Token]:
        """Prefills one wave; returns the first token of each prompt by its order."""
        packed, put = pack(wave, self._slots), self._programs.put
        batch = jax.tree.map(lambda array: put(array, None, BATCH_AXES), packed.batch)
        sampling = self._on_mesh(packed.sampling)
        sampled, self._memory = self._programs.prefill(self._weights, batch, sampling, self._memory)
        rows = [(row, one.slot) for row, one in packed.places]
        first = {}
        for token, (_, one) in zip(
            self._tokens(sampled, packed.sampling, rows), packed.places, strict=True
        ):
            self._newest[one.slot] = (token.id, one.size, 1, 1)
            self._options[one.slot] = one.prompt.sampling
            first[one.order] = token
        self._sampling = None
        return first

    def _tokens(
        self,
        sampled: Sampled,
        options: Sequence[SamplingOptions],
        rows: Sequence[tuple[int, int]],
    ) -> list[Token]:
        """Return what was picked in rows (row, slot), each with the alternatives it asks for."""
        ids, logprobs = np.asarray(sampled.ids_b), np.asarray(sampled.logprobs_b)
        counts = {row: options[row].top_logprobs for row, _ in rows if options[row].top_logprobs}
        alternatives: dict[int, Alternatives] = {}
        if counts:
            gathered = self._programs.gather((sampled.top_ids_bk, sampled.top_logprobs_bk))
            top_ids, top_logprobs = (np.asarray(array).tolist() for array in gathered)
            alternatives = {
                row: tuple(zip(top_ids[row][:count], top_logprobs[row][:count], strict=True))
                for row, count in counts.items()
            }
        return [
            Token(slot, int(ids[row]), float(logprobs[row]), alternatives.get(row, ()))
            for row, slot in rows
        ]

    def _on_mesh(self, options: Sequence[SamplingOptions]) -> SamplingArrays:
        return jax.tree.map(self._programs.put, stack(options))


def check_decoding(config: Config, *, slots: int) -> None:
    """Refuse a model that cannot generate on its mesh.

    Args:
        config: of the model.
        slots: texts at a time.

    Raises:
        UserError: for a pipeline, an exchange that drops tokens, or slots that the devices cannot
            share equally.
    """
    shards = math.prod(getattr(config.mesh, axis) for axis in BATCH_AXES)
    if config.mesh.pipe > 1:
        raise UserError(
            f"mesh.pipe ({config.mesh.pipe}) must be 1 to generate: a token at a time leaves all "
            "stages but one idle. Set mesh.pipe=1 and mesh.data to a multiple; a checkpoint "
            "restores onto any mesh"
        )
    if config.exchange.overflow != "rounds":
        raise UserError(
            "exchange.overflow='drop' makes a continuation depend on the rest of the batch: "
            "generate with exchange.overflow='rounds'"
        )
    if slots < 1 or slots % shards:
        more = -(-max(slots, 1) // shards) * shards
        raise UserError(
            f"slots ({slots}) must be a multiple of the {shards} devices that share them: "
            f"take {more}"
        )


def _check_context(config: Config, context: int) -> None:
    rope = config.model.attention.rope
    check_context(context)
    if rope.scaling == "longrope" and context > rope.original_context and rope.factors == "short":
        raise UserError(
            f"a context of {context} is beyond model.attention.rope.original_context "
            f"({rope.original_context}), for which its short factors are made: set "
            "model.attention.rope.factors=long"
        )
