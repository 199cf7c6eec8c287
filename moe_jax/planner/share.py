"""What one device holds and serves under a layout: counts, no seconds and no workspace.

The analytic model's first half: tokens, rows and parameters per device for any mesh, tensor and
pipe axes included. Times from these counts are `analytic_time.py`, memory `analytic_memory.py`.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from moe_jax.config.schema import Config
from moe_jax.model.flops import expert_parameters, layer_parameters
from moe_jax.model.pattern import LayerSpec, layer_specs
from moe_jax.moe.exchange.choose import cheapest_transport
from moe_jax.moe.exchange.contract import TransportName, capacity
from moe_jax.planner.bounds import Mode


@dataclass(frozen=True)
class Layout:
    """What a config does not say about how its mesh is used.

    Attributes:
        microbatches: that pass through the pipeline; 0 takes `train.accumulation`.
        virtual_stages: stages per device of an interleaved schedule; 1 is plain 1F1B.
        sequence_parallel: whether activations between tensor-parallel parts are split over the
            tensor axis too.
        experts: "padded" computes `capacity_factor` rows per expert, as our exchange does;
            "grouped" computes exactly the rows there are, as a grouped matmul does.
    """

    microbatches: int = 0
    virtual_stages: int = 1
    sequence_parallel: Literal["on", "off"] = "on"
    experts: Literal["padded", "grouped"] = "padded"

    def __post_init__(self) -> None:
        if self.microbatches < 0 or self.virtual_stages < 1:
            raise ValueError(
                f"microbatches ({self.microbatches}) must be 0 or more and virtual_stages "
                f"({self.virtual_stages}) 1 or more"
            )


@dataclass(frozen=True)
class Parameters:
    """Elements of one device's parameters, after expert, fsdp, tensor and pipe axes."""

    #: Of one layer, by kind of layer: those that all batch shards hold, and experts.
    dense: dict[LayerSpec, float]
    experts: dict[LayerSpec, float]
    #: Embedding, output projection and final norm, on every stage.
    ends: float


@dataclass(frozen=True)
class Share:
    """One device's part of a config's step. Layers are counted per pipeline stage."""

    config: Config
    mode: Mode
    layout: Layout

    @property
    def microbatches(self) -> int:
        if self.mode == "decode":
            return 1
        return self.layout.microbatches or self.config.train.accumulation

    @property
    def tensor(self) -> int:
        return self.config.mesh.tensor

    @property
    def sequence_tensor(self) -> int:
        """Over how many devices of the tensor axis activations are split."""
        return self.tensor if self.layout.sequence_parallel == "on" else 1

    @cached_property
    def tokens(self) -> int:
        """Tokens of a microbatch on one batch shard.

        Raises:
            ValueError: the batch does not give every shard and microbatch whole sequences.
        """
        mesh, train = self.config.mesh, self.config.train
        parts = mesh.data * mesh.fsdp * mesh.expert * self.microbatches
        sequences, rest = divmod(train.global_batch, parts)
        if rest or not sequences:
            raise ValueError(
                f"train.global_batch ({train.global_batch}) must be a multiple of {parts} = "
                f"mesh data x fsdp x expert ({parts // self.microbatches}) x microbatches "
                f"({self.microbatches})"
            )
        return sequences * (1 if self.mode == "decode" else self.config.data.sequence_length)

    @property
    def streams(self) -> int:
        # Decoding has one stream, as inference runs it.
        return 1 if self.mode == "decode" else self.config.exchange.streams

    @cached_property
    def stream_tokens(self) -> int:
        return math.ceil(self.tokens / self.streams)

    @cached_property
    def layers(self) -> dict[LayerSpec, float]:
        """Layers of each kind on a stage, the stages sharing them evenly."""
        counted = Counter(layer_specs(self.config.model))
        return {spec: count / self.config.mesh.pipe for spec, count in counted.items()}

    @cached_property
    def transport(self) -> TransportName:
        devices = self.config.mesh.expert
        if devices == 1:
            # As `contract.make_spec` does: one device has nobody to exchange with.
            return "local"
        return cheapest_transport(self.config, devices, self.stream_tokens)

    @property
    def local_experts(self) -> float:
        """Experts that a device computes."""
        devices = 1 if self.transport == "local" else self.config.mesh.expert
        return self.config.model.moe.num_experts / devices

    @cached_property
    def rows(self) -> float:
        """Rows that the experts of one device compute per MoE layer, stream and round."""
        moe, devices = self.config.model.moe, self.config.mesh.expert
        if self.layout.experts == "grouped":
            return self.stream_tokens * moe.top_k
        factor, tokens = self.config.exchange.capacity_factor, self.stream_tokens
        if self.transport == "all_to_all":
            per_source = capacity(tokens, moe.top_k, moe.num_experts, factor, devices)
            return self.local_experts * devices * per_source
        if self.transport == "all_gather":
            gathered = tokens * devices
            return self.local_experts * capacity(gathered, moe.top_k, moe.num_experts, factor)
        return moe.num_experts * capacity(tokens, moe.top_k, moe.num_experts, factor)

    @cached_property
    def parameters(self) -> Parameters:
        mesh, model = self.config.mesh, self.config.model
        split = mesh.fsdp * mesh.tensor
        experts = {
            spec: model.moe.num_experts * expert_parameters(model) if spec.kind == "moe" else 0
            for spec in self.layers
        }
        dense = {spec: layer_parameters(model, spec) - experts[spec] for spec in self.layers}
        tables = 1 if model.tie_embeddings == "tied" else 2
        return Parameters(
            dense={spec: count / split for spec, count in dense.items()},
            experts={spec: count / split / mesh.expert for spec, count in experts.items()},
            ends=tables * model.vocab_size * model.d_model / split,
        )

    @cached_property
    def parameter_count(self) -> float:
        """All elements of this device's parameters."""
        each = self.parameters
        layers = sum(n * (each.dense[s] + each.experts[s]) for s, n in self.layers.items())
        return layers + each.ends

    def cache_values(self, spec: LayerSpec) -> float:
        """Keys and values of one layer that a decoding device holds, and reads for each token."""
        attention, length = self.config.model.attention, self.config.data.sequence_length
        entry = 2 * attention.kv_heads * attention.head_dim / self.tensor
        return self.tokens * min(spec.window or length, length) * entry

    def rounds(self, skew: float) -> int:
        """Rounds that serve the busiest expert, whose load is (1 + skew) x the mean."""
        exchange = self.config.exchange
        if self.layout.experts == "grouped" or exchange.overflow == "drop":
            return 1
        return math.ceil((1 + skew) / exchange.capacity_factor - 1e-9)

    def straggling(self, skew: float) -> float:
        """Rows of the busiest device over the mean, where devices compute what they get."""
        if self.layout.experts == "padded" or self.transport == "local":
            return 1.0
        return 1 + skew / self.local_experts
