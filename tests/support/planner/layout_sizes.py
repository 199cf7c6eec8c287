"""Bytes of what a layout's training step moves, from its config. No tests here."""

import math
from dataclasses import dataclass

from moe_jax.axes import AXES, EXPERT, FSDP, TENSOR
from moe_jax.config import Config
from moe_jax.moe.exchange.contract import capacity

BF16, F32 = 2, 4


@dataclass(frozen=True)
class Size:
    """Bytes of arrays, whole unless said otherwise; `rows` and `tokens` are one device's."""

    config: Config

    def __post_init__(self) -> None:
        assert self.config.precision.params == self.config.precision.compute == "bfloat16"

    @property
    def mesh(self) -> dict[str, int]:
        return {axis: getattr(self.config.mesh, axis) for axis in AXES}

    @property
    def long(self) -> tuple[str, ...]:
        return tuple(axis for axis, size in self.mesh.items() if size > 1)

    @property
    def layers(self) -> int:
        return self.config.model.num_layers

    @property
    def streams(self) -> int:
        return self.config.exchange.streams

    @property
    def norm(self) -> int:
        return self.config.model.d_model * BF16

    @property
    def projection(self) -> int:
        """Each of the four of attention: as many key/value heads as heads."""
        attention = self.config.model.attention
        assert attention.kv_heads == attention.heads
        return self.norm * attention.heads * attention.head_dim

    @property
    def router(self) -> int:
        return self.norm * self.config.model.moe.num_experts

    @property
    def experts(self) -> int:
        """Up or down of all experts."""
        moe = self.config.model.moe
        return self.norm * moe.d_ff * moe.num_experts

    @property
    def table(self) -> int:
        return self.norm * self.config.model.vocab_size

    @property
    def sequences(self) -> int:
        """Of a stream's microbatch, on a device and its tensor axis."""
        train, mesh = self.config.train, self.mesh
        shards = mesh["data"] * mesh[FSDP] * mesh[EXPERT]
        return train.global_batch // (self.streams * shards * self.config.pipeline.microbatches)

    @property
    def tokens(self) -> int:
        """The same of `sequences`, in tokens."""
        return self.sequences * self.config.data.sequence_length

    @property
    def places(self) -> int:
        """Tokens that a device sends to one other in the main round."""
        factor, devices = self.config.exchange.capacity_factor, self.mesh[EXPERT]
        own = self.tokens // self.mesh[TENSOR]
        return capacity(own, self._visits, devices, factor, devices)

    @property
    def slots(self) -> int:
        """Rows that a device sends in the main round, with those that hold choices."""
        devices, experts = self.mesh[EXPERT], self.config.model.moe.num_experts
        numbers = 1 if experts == devices else 2 * self._top_k
        # A float32 number is three bfloat16.
        spare = math.ceil(self.places * numbers * 3 / self.config.model.d_model)
        return devices * (self.places + spare)

    @property
    def _top_k(self) -> int:
        return self.config.model.moe.top_k

    @property
    def _visits(self) -> float:
        """Devices that a token's choices are on, in the mean over all distinct choices."""
        moe, devices = self.config.model.moe, self.mesh[EXPERT]
        elsewhere = math.comb(moe.num_experts - moe.num_experts // devices, moe.top_k)
        return devices * (1 - elsewhere / math.comb(moe.num_experts, moe.top_k))

    @property
    def activations(self) -> int:
        return self.tokens * self.norm

    @property
    def chunks(self) -> int:
        return self.config.data.sequence_length // self.config.train.loss_chunk
