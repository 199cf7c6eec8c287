"""Seconds of a layer with its communication, modelled; for any mesh.

The analytic model's time half: what each collective takes (`network.py`), and what of it hides
behind compute (`analytic_compute.py`). `analytic.py` puts steps together and lists the assumptions
made here.
"""

from dataclasses import dataclass

from moe_jax.config.schema import Config
from moe_jax.mesh.axes import BATCH_AXES, DATA, EXPERT, FSDP, PIPE, TENSOR
from moe_jax.mesh.topology import Topology
from moe_jax.model.pattern import LayerSpec
from moe_jax.planner.analytic_compute import BACKWARD, LayerCompute, Seconds
from moe_jax.planner.bounds import DTYPE_BYTES
from moe_jax.planner.network import axis_group, collective_time
from moe_jax.planner.share import Share


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

    compute: LayerCompute
    topology: Topology
    #: Load of the busiest expert over the mean, minus 1.
    skew: float

    @property
    def share(self) -> Share:
        return self.compute.share

    @property
    def config(self) -> Config:
        return self.share.config

    @property
    def width(self) -> int:
        return self.compute.width

    def forward(self, spec: LayerSpec) -> Seconds:
        return self._with_comm(spec, self.compute.forward(spec), _FORWARD)

    def backward(self, spec: LayerSpec) -> Seconds:
        """Backward, and what is computed again for it."""
        remat = self.config.train.remat
        again = 0 if remat == "none" else 1
        # Rows are sent again only where they were not kept; outputs never (`exchange/combine.py`).
        trips = 2 + (remat == "full")
        way = _Pass(trips, 0, 1 + again, BACKWARD + again, gradients=1)
        compute = self.compute.backward(spec) + self.compute.forward(spec) * again
        return self._with_comm(spec, compute, way)

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
        work = way.work * self.compute.experts(spec).compute
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
