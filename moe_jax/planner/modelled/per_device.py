"""What one device holds and works on under a config: counts, no seconds and no workspace.

The one place where tokens, rows and parameters of a device are counted, for any mesh; rows as its
transport says (`moe/exchange/contract.py`). Times from these counts are `layer_time.py`, memory
`memory.py`, what a compiled program does with them `compiled/traffic.py`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import cast

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.inference.inference_config import decoding_config
from moe_jax.model.cache import entry_shapes
from moe_jax.model.flops import expert_parameters, layer_parameters
from moe_jax.model.pattern import LayerRun, LayerSpec, layer_runs, layer_sequence
from moe_jax.model.pipeline import Schedule, pipelined
from moe_jax.moe.exchange.choose import cheapest_spec
from moe_jax.moe.exchange.contract import ExchangeSpec, Message, Transport
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.speed import step_length

#: A search asks for those of one model thousands of times.
_layer_runs = cast(Callable[[ModelConfig], tuple[LayerRun, ...]], cache(layer_runs))
_layer_sequence = cast(Callable[[ModelConfig], tuple[LayerSpec, ...]], cache(layer_sequence))


def pipeline_schedule(config: Config) -> Schedule:
    """Return how the repeated layers are pipelined; without a pipe axis one tick does all."""
    pipe, pipeline = config.mesh.pipe, config.pipeline
    repeats = _layer_runs(config.model)[-1].repeats
    schedule = pipelined(pipe, pipeline.virtual_stages, pipeline.microbatches, repeats)
    return schedule or Schedule(1, 1, 1, repeats)


@dataclass(frozen=True)
class Parameters:
    """Elements of one device's parameters, or of its part of their optimiser state."""

    #: Of one layer, by kind of layer: those that all batch shards use, and experts.
    dense: dict[LayerSpec, float]
    experts: dict[LayerSpec, float]
    #: Embedding, output projection and final norm, on every stage.
    ends: float


@dataclass(frozen=True)
class Share:
    """One device's part of a step of one mode. Layers are counted per pipeline stage."""

    #: As the mode's program runs with it, whatever is given: to decode, that of a decode step.
    config: Config
    mode: Mode

    def __post_init__(self) -> None:
        if self.mode == "decode":
            config = decoding_config(self.config, self.config.train.global_batch)
            object.__setattr__(self, "config", config)

    @cached_property
    def schedule(self) -> Schedule:
        """How the repeated layers are pipelined."""
        return pipeline_schedule(self.config)

    @property
    def hands_out(self) -> bool:
        """Whether a pipeline computes its layers elsewhere than where they are stored.

        See `Placement.in_order`.
        """
        schedule = self.schedule
        return schedule.rounds > 1 or not schedule.is_full

    @property
    def accumulation(self) -> int:
        """Times that a step runs through the model."""
        return self.config.train.accumulation

    @property
    def tensor(self) -> int:
        """Devices that split each layer's matrices."""
        return self.config.mesh.tensor

    @property
    def token_shards(self) -> int:
        """Over how many devices of the tensor axis activations between matmuls are split."""
        return self.tensor if self.config.sharding.sequence == "split" else 1

    @cached_property
    def tokens(self) -> int:
        """Tokens of a microbatch that a layer works on, over the whole tensor axis.

        Raises:
            UserError: the batch does not give every shard and microbatch whole sequences.
        """
        mesh, train = self.config.mesh, self.config.train
        microbatches = self.accumulation * self.schedule.microbatches
        parts = mesh.data * mesh.fsdp * mesh.expert * microbatches
        sequences, rest = divmod(train.global_batch, parts)
        if rest or not sequences:
            raise UserError(
                f"train.global_batch ({train.global_batch}) must be a multiple of {parts} = "
                f"mesh data x fsdp x expert ({parts // microbatches}) x microbatches "
                f"({microbatches})"
            )
        return sequences * step_length(self.config, self.mode)

    @property
    def stage_tokens(self) -> int:
        """Tokens of all microbatches of a pipeline."""
        return self.tokens * self.schedule.microbatches

    @property
    def outside_tokens(self) -> float:
        """Tokens of the embedding and the loss, which share them out over the pipe axis too."""
        return self.stage_tokens / self.config.mesh.pipe

    @property
    def device_tokens(self) -> float:
        """Tokens of a whole step, the tensor axis's shared out among its devices."""
        return self.accumulation * self.stage_tokens / self.tensor

    @property
    def streams(self) -> int:
        """Slices of a microbatch that hide each other's communication."""
        return self.config.exchange.streams

    @cached_property
    def stream_tokens(self) -> int:
        """Tokens of a microbatch's stream, over the whole tensor axis."""
        return math.ceil(self.tokens / self.streams)

    @cached_property
    def layers(self) -> dict[LayerSpec, float]:
        """Layers of each kind on a stage, the stages sharing them evenly."""
        counted = Counter(_layer_sequence(self.config.model))
        return {spec: count / self.config.mesh.pipe for spec, count in counted.items()}

    @cached_property
    def runs(self) -> dict[LayerSpec, float]:
        """How often a device runs a layer of each kind on a microbatch, per pass; no bubble.

        Layers that precede the repeating ones are outside the pipeline, on fewer tokens.
        """
        *leading, repeated = _layer_runs(self.config.model)
        runs: dict[LayerSpec, float] = defaultdict(float)
        for spec in repeated.unit:
            runs[spec] += self.schedule.microbatches * self.schedule.rounds * self.schedule.group
        for run in leading:
            runs[run.unit[0]] += self.schedule.microbatches / self.schedule.stages
        return dict(runs)

    @cached_property
    def exchange(self) -> ExchangeSpec:
        """How rows meet their experts, "auto" resolved."""
        return cheapest_spec(self.config, self.config.mesh.expert, self.routed_tokens)

    @property
    def transport(self) -> Transport:
        """The exchange's way of moving rows."""
        return self.exchange.transport

    @property
    def routed_tokens(self) -> int:
        """Tokens of a stream that a device routes: on the tensor axis, its own."""
        return math.ceil(self.stream_tokens / self.token_shards)

    @property
    def local_experts(self) -> int:
        """Experts that a device computes."""
        return self.exchange.experts_here

    @cached_property
    def slots(self) -> int:
        """Places for tokens at a device's experts, per MoE layer, stream and main round.

        Those that fill them are not of the tensor axis's other devices.
        """
        top_k = self.config.model.moe.top_k
        return self.transport.arrivals(self.exchange, self.routed_tokens, top_k)

    @property
    def arrivals(self) -> int:
        """The same of the whole tensor axis, whose tokens each of its devices serves."""
        return self.slots * self.token_shards

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """What a trip of one stream's tokens to their experts sends, per MoE layer and round."""
        top_k = self.config.model.moe.top_k
        return self.transport.messages(self.exchange, self.routed_tokens, top_k)

    @cached_property
    def rows(self) -> int:
        """Rows that a device's experts hold per MoE layer, stream and main round.

        Those of its whole tensor axis, each with a part of the hidden size; empty ones included.
        """
        top_k = self.config.model.moe.top_k
        return self.transport.expert_rows(self.exchange, self.arrivals, top_k)

    @property
    def is_grouped(self) -> bool:
        """Whether experts compute what their rows cost; the only one of a device takes all rows."""
        return self.local_experts > 1 or self.rows < self.arrivals

    @property
    def computed_rows(self) -> int:
        """Rows that a device's experts compute, of `rows`: the mean load, if they are grouped."""
        if not self.is_grouped:
            return self.rows
        return self.routed_tokens * self.token_shards * self.config.model.moe.top_k

    @property
    def dense_parts(self) -> int:
        """Devices that share a dense matrix out between them, and gather it for use."""
        mesh, over_expert = self.config.mesh, self.config.sharding.dense == "fsdp_expert"
        return mesh.fsdp * (mesh.expert if over_expert else 1)

    @cached_property
    def parameters(self) -> Parameters:
        """As they are stored."""
        mesh, model = self.config.mesh, self.config.model
        each = expert_parameters(model) * model.moe.num_experts
        experts = {spec: each if spec.kind == "moe" else 0 for spec in self.layers}
        dense = {spec: layer_parameters(model, spec) - experts[spec] for spec in self.layers}
        tables = 1 if model.tie_embeddings == "tied" else 2
        split = mesh.fsdp * mesh.expert * mesh.tensor
        return Parameters(
            dense={spec: n / self.dense_parts / mesh.tensor for spec, n in dense.items()},
            experts={spec: n / split for spec, n in experts.items()},
            ends=tables * model.vocab_size * model.d_model / self.dense_parts / mesh.tensor,
        )

    @cached_property
    def optimizer_state(self) -> Parameters:
        """Elements with optimiser state on this device; see `Placement.optimizer`."""
        each, mesh = self.parameters, self.config.mesh
        if self.config.sharding.optimizer == "parameter":
            return each
        copies = mesh.fsdp * mesh.expert // self.dense_parts
        return Parameters(
            dense={spec: n / self._zero(copies, mesh.data) for spec, n in each.dense.items()},
            experts={spec: n / self._zero(mesh.data) for spec, n in each.experts.items()},
            ends=each.ends / self._zero(copies, mesh.data, mesh.pipe),
        )

    def _zero(self, *axes: int) -> int:
        """Return over how many holders of a copy its optimiser state is split.

        Axes count that divide d_model beside those that split it already.
        """
        parts = whole = self.dense_parts
        for size in axes:
            if self.config.model.d_model % (parts * size) == 0:
                parts *= size
        return parts // whole

    def count(self, each: Parameters) -> float:
        """Return the elements of all layers and ends on this device."""
        layers = sum(n * (each.dense[s] + each.experts[s]) for s, n in self.layers.items())
        return layers + each.ends

    def cache_values(self, spec: LayerSpec) -> float:
        """Return the elements of one layer's cache, which decoding reads for each token."""
        attention, length = self.config.model.attention, self.config.data.sequence_length
        # Whole heads: where they are fewer than the devices of the axis, each keeps one.
        shapes = entry_shapes(attention, self.tensor)
        entry = sum(s.heads * s.width / (self.tensor if s.axis else 1) for s in shapes)
        return self.stage_tokens * min(spec.window or length, length) * entry

    def skew_of_device(self, skew: float) -> float:
        """Return the load of the busiest device over the mean, minus 1.

        Args:
            skew: the same of the busiest expert, beside which the device's others have the mean.
        """
        return 0.0 if self.transport.gathers_experts else skew / self.local_experts

    def further_rounds(self, skew: float) -> int:
        """Return the further rounds that serve the busiest device.

        Args:
            skew: load of the busiest expert over the mean, minus 1.
        """
        exchange = self.config.exchange
        if exchange.overflow == "drop":
            return 0
        beyond = (1 + self.skew_of_device(skew)) / exchange.capacity_factor - 1
        return max(math.ceil(beyond / exchange.round_fraction - 1e-9), 0)
