"""Seconds of one layer and of a step, modelled from counts and rates; for any mesh.

The analytic model's time half. Counts per device are `share.py`, rates `rates.py`, collectives
`network.py`; `analytic.py` puts them together and lists the assumptions made here.
"""

from dataclasses import dataclass, fields

from moe_jax.config.schema import Config
from moe_jax.mesh.axes import BATCH_AXES, DATA, EXPERT, FSDP, PIPE, TENSOR
from moe_jax.mesh.topology import Topology
from moe_jax.model.flops import mean_context, mlp_elements, projection_elements
from moe_jax.model.pattern import LayerSpec
from moe_jax.nn.activation import is_gated
from moe_jax.planner.bounds import DTYPE_BYTES
from moe_jax.planner.network import axis_group, collective_time
from moe_jax.planner.rates import Rates
from moe_jax.planner.share import Share

#: How often elementwise work of a forward layer goes over an array, reads and writes counted: two
#: norms, rotary q and k, two residual sums (activations); gather and combine (rows); the
#: activation function (hidden values, and once more for a gate).
ACTIVATION_PASSES, ROW_PASSES, HIDDEN_PASSES = 12, 4, 2
#: float32 logits: written, and read for the normaliser and for the target.
LOGIT_PASSES = 3
#: Backward over forward: two products per product, and as much again of elementwise work.
BACKWARD = 2


@dataclass(frozen=True)
class Seconds:
    """Where time goes, in seconds. Communication is what collectives take by themselves."""

    matmul: float = 0.0
    attention: float = 0.0
    other: float = 0.0
    #: Tokens to experts and back.
    exchange: float = 0.0
    #: Sums and gathers of activations over the tensor axis.
    tensor: float = 0.0
    #: Parameters gathered over the fsdp axis (or over expert, for `local`).
    weights: float = 0.0
    #: Sums of gradients over the batch axes.
    gradients: float = 0.0
    #: Activations to the next pipeline stage.
    stages: float = 0.0
    #: Further rounds, or waiting for the busiest device; nothing hides behind either.
    imbalance: float = 0.0
    #: The part of all communication behind which nothing computes.
    exposed: float = 0.0

    @property
    def compute(self) -> float:
        return self.matmul + self.attention + self.other

    @property
    def comm(self) -> float:
        return self.exchange + self.tensor + self.weights + self.gradients + self.stages

    @property
    def total(self) -> float:
        return self.compute + self.exposed + self.imbalance

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> "Seconds":
        return Seconds(*(factor * getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class _Pass:
    """One direction through a layer: how often a forward layer's parts are done."""

    #: Exchanges per stream, and how many of them no other stream can hide.
    trips: int
    edges: int
    #: Activations crossing the tensor axis and weights gathered.
    activations: int
    #: The experts' compute.
    work: int
    gradients: int


_FORWARD = _Pass(trips=2, edges=2, activations=1, work=1, gradients=0)


@dataclass(frozen=True)
class LayerModel:
    """One microbatch through one layer, on one device."""

    share: Share
    rates: Rates
    topology: Topology
    #: Load of the busiest expert over the mean, minus 1.
    skew: float

    @property
    def config(self) -> Config:
        return self.share.config

    @property
    def width(self) -> int:
        return DTYPE_BYTES[self.config.precision.compute]

    def forward(self, spec: LayerSpec) -> Seconds:
        compute = self._compute(spec) + self._expert_work(spec)
        return self._with_comm(spec, compute, _FORWARD)

    def backward(self, spec: LayerSpec) -> Seconds:
        """Backward, and what is computed again for it."""
        remat = self.config.train.remat
        once = self._compute(spec) + self._expert_work(spec)
        flops = BACKWARD * self._attention_flops(spec)
        compute = Seconds(
            matmul=BACKWARD * once.matmul,
            attention=flops / self.rates.attention_backward_flops_per_s,
            other=BACKWARD * once.other,
        )
        again = 0 if remat == "none" else 1
        # Rows are sent again only where they were not kept; outputs never (`exchange/combine.py`).
        trips = 2 + (remat == "full")
        way = _Pass(trips, 0, 1 + again, BACKWARD + again, gradients=1)
        return self._with_comm(spec, compute + once * again, way)

    def head(self) -> Seconds:
        """Output projection and loss, forward and, in training, backward (computed again)."""
        model, tokens = self.config.model, self.share.tokens
        elements = model.vocab_size * model.d_model / self.share.tensor
        logits = tokens * model.vocab_size / self.share.tensor
        matmul = self._matmul(2 * tokens * elements, elements)
        other = LOGIT_PASSES * 4 * logits / self.rates.memory_bytes_per_s
        repeats = 2 + BACKWARD if self.share.mode == "train" else 1
        return Seconds(matmul=matmul, other=other) * repeats

    def _compute(self, spec: LayerSpec) -> Seconds:
        """Everything but the experts: projections, attention, dense MLPs, elementwise work."""
        model, share = self.config.model, self.share
        tokens, tensor = share.tokens, share.tensor
        dense = projection_elements(model)
        hidden = 0.0
        if spec.kind == "dense":
            dense += mlp_elements(model.d_model, model.mlp.d_ff, model.mlp.activation)
            hidden = tokens * self._hidden(model.mlp.d_ff, model.mlp.activation)
        else:
            shared = model.moe.shared_experts * model.moe.d_ff
            dense += mlp_elements(model.d_model, shared, model.moe.activation)
            hidden = tokens * self._hidden(shared, model.moe.activation)
        router = model.moe.num_experts * model.d_model if spec.kind == "moe" else 0
        elements = dense / tensor + router / share.sequence_tensor
        passes = ACTIVATION_PASSES * tokens * model.d_model / share.sequence_tensor
        return Seconds(
            matmul=self._matmul(2 * tokens * elements, elements),
            attention=self._attention(spec),
            other=(passes + hidden) * self.width / self.rates.memory_bytes_per_s,
        )

    def _expert_work(self, spec: LayerSpec) -> Seconds:
        """One round of all streams through this device's experts."""
        if spec.kind != "moe":
            return Seconds()
        model, moe = self.config.model, self.config.model.moe
        rows = self.share.streams * self.share.rows
        each = mlp_elements(model.d_model, moe.d_ff, moe.activation) / self.share.tensor
        moved = ROW_PASSES * rows * model.d_model * self.width
        hidden = rows * self._hidden(moe.d_ff, moe.activation) * self.width
        return Seconds(
            matmul=self._matmul(2 * rows * each, self.share.local_experts * each),
            other=moved / self.rates.gather_bytes_per_s + hidden / self.rates.memory_bytes_per_s,
        )

    def _hidden(self, d_ff: int, activation: str) -> float:
        passes = HIDDEN_PASSES + is_gated(activation)
        return passes * d_ff / self.share.tensor

    def _matmul(self, flops: float, elements: float) -> float:
        """Seconds of products; at least what reading the weights takes."""
        reading = elements * self.width / self.rates.memory_bytes_per_s
        return max(flops / self.rates.matmul_flops_per_s, reading)

    def _attention_flops(self, spec: LayerSpec) -> float:
        attention, length = self.config.model.attention, self.config.data.sequence_length
        heads = attention.heads * attention.head_dim / self.share.tensor
        context = mean_context(length, spec.window)
        if self.share.mode == "decode":
            context = min(spec.window or length, length)
        return 4 * heads * context * self.share.tokens

    def _attention(self, spec: LayerSpec) -> float:
        seconds = self._attention_flops(spec) / self.rates.attention_forward_flops_per_s
        if self.share.mode != "decode":
            return seconds
        cache = self.share.cache_values(spec) * self.width
        return max(seconds, cache / self.rates.memory_bytes_per_s)

    def _with_comm(self, spec: LayerSpec, compute: Seconds, way: _Pass) -> Seconds:
        """Add a layer's communication.

            exposed exchange = edge + max(0, exchange - edge - compute (n - 1) / n)

        for n streams, since a stream hides behind the others only; edge is what no other stream
        can hide: the first dispatch and the last combine of a forward layer. Gathered weights and
        summed gradients hide behind what compute is left. Tensor-parallel sums hide nothing.
        """
        streams = self.share.streams
        one = self._exchange(spec)
        exchange = way.trips * streams * one
        edge = min(exchange, way.edges * one)
        behind = compute.compute * (streams - 1) / streams
        exposed = edge + max(0.0, exchange - edge - behind)
        spare = max(0.0, compute.compute - (exchange - exposed))
        weights = way.activations * self._gathered_weights(spec)
        gradients = way.gradients * self._gradients(spec)
        tensor = way.activations * self._tensor_sums()
        return compute + Seconds(
            exchange=exchange,
            tensor=tensor,
            weights=weights,
            gradients=gradients,
            imbalance=self._imbalance(spec, way),
            exposed=exposed + max(0.0, weights + gradients - spare) + tensor,
        )

    def _exchange(self, spec: LayerSpec) -> float:
        """One trip of one stream's rows."""
        share = self.share
        if spec.kind != "moe" or share.transport == "local":
            return 0.0
        group = axis_group(self.config.mesh, (EXPERT,), self.topology)
        row = self.config.model.d_model * self.width
        if share.transport == "all_gather":
            size = share.stream_tokens * self.config.mesh.expert * row / share.sequence_tensor
            return collective_time("all-gather", size, group, self.topology)
        size = share.rows * row / share.sequence_tensor * share.straggling(self.skew)
        return collective_time("all-to-all", size, group, self.topology)

    def _imbalance(self, spec: LayerSpec, way: _Pass) -> float:
        """Further rounds of everyone, or waiting for the device with the busiest expert."""
        work = way.work * self._expert_work(spec).compute
        further = self.share.rounds(self.skew) - 1
        sent = way.trips * self.share.streams * self._exchange(spec)
        return further * (work + sent) + (self.share.straggling(self.skew) - 1) * work

    def _tensor_sums(self) -> float:
        """A forward layer's two sums of activations over the tensor axis."""
        if self.share.tensor == 1:
            return 0.0
        group = axis_group(self.config.mesh, (TENSOR,), self.topology)
        size = self.share.tokens * self.config.model.d_model * self.width
        # An all-reduce costs what a reduce-scatter and an all-gather do.
        return 2 * collective_time("all-reduce", size, group, self.topology)

    def _gathered_weights(self, spec: LayerSpec) -> float:
        mesh, each = self.config.mesh, self.share.parameters
        group = axis_group(mesh, (FSDP,), self.topology)
        size = (each.dense[spec] + each.experts[spec]) * mesh.fsdp * self.width
        seconds = collective_time("all-gather", size, group, self.topology)
        if self.share.transport == "local" and mesh.expert > 1:
            experts = axis_group(mesh, (EXPERT,), self.topology)
            whole = each.experts[spec] * mesh.fsdp * mesh.expert * self.width
            seconds += collective_time("all-gather", whole, experts, self.topology)
        return seconds

    def _gradients(self, spec: LayerSpec) -> float:
        """Sums of one layer's gradients over the batch shards that hold the same parameters."""
        each = self.share.parameters
        return self.summed(each.dense[spec], (DATA, EXPERT)) + self.summed(
            each.experts[spec], (DATA,)
        )

    def summed(self, elements: float, axes: tuple[str, ...]) -> float:
        """Seconds to sum gradients of this device's `elements` over fsdp and `axes`."""
        mesh, width = self.config.mesh, DTYPE_BYTES[self.config.precision.params]
        assert set(axes) < set(BATCH_AXES), axes
        scattered, rest = (axis_group(mesh, a, self.topology) for a in ((FSDP,), axes))
        size = elements * width
        return collective_time(
            "reduce-scatter", size * mesh.fsdp, scattered, self.topology
        ) + collective_time("all-reduce", size, rest, self.topology)

    def stage_send(self) -> float:
        """One microbatch's activations to the next stage."""
        if self.config.mesh.pipe == 1:
            return 0.0
        size = self.share.tokens * self.config.model.d_model * self.width
        group = axis_group(self.config.mesh, (PIPE,), self.topology)
        return collective_time(
            "collective-permute", size / self.share.sequence_tensor, group, self.topology
        )

    def optimizer(self) -> float:
        """Reading gradients, moments and parameters, and writing the latter two."""
        precision, name = self.config.precision, self.config.optimizer.name
        moments = {"adamw": 2, "muon": 1}[name]
        parameter = DTYPE_BYTES[precision.params]
        per_element = 2 * parameter + 2 * moments * DTYPE_BYTES[precision.optimizer_state]
        per_element += 2 * 4 if precision.master == "float32" else parameter
        return self.share.parameter_count * per_element / self.rates.memory_bytes_per_s
