"""Seconds of a layer with its communication, modelled; for any mesh.

The analytic model's time half: what each collective takes (`hardware/network.py`), and what of it
hides behind compute (`compute.py`). What is outside the layers is `outside.py`; `estimate.py` puts
steps together and lists the assumptions made here.
"""

from dataclasses import dataclass

from moe_jax.axes import DATA, EXPERT, FSDP, PIPE, TENSOR
from moe_jax.config.remat import EVERYTHING
from moe_jax.config.schema import Config
from moe_jax.hardware.network import Group, axis_group, collective_time
from moe_jax.hardware.topology import Topology
from moe_jax.model.pattern import LayerSpec
from moe_jax.model.remat.kept import decided_names
from moe_jax.moe.exchange.contract import Message
from moe_jax.planner.modelled.bounds import DTYPE_BYTES
from moe_jax.planner.modelled.compute import BACKWARD, LayerCompute, Seconds
from moe_jax.planner.modelled.per_device import Share


@dataclass(frozen=True)
class _Pass:
    """One direction through a layer: how often a forward layer's parts are done."""

    #: Exchanges per stream, and how many of them no other stream can hide.
    trips: int
    edges: int
    #: Activations crossing the tensor axis.
    activations: float
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
        """What this device works on."""
        return self.compute.share

    @property
    def config(self) -> Config:
        """The config that the mode's program runs with."""
        return self.share.config

    @property
    def width(self) -> int:
        """Bytes of a value."""
        return self.compute.width

    def forward(self, spec: LayerSpec) -> Seconds:
        """Return a layer's work and communication, forward."""
        return self._with_comm(spec, self.compute.forward(spec), _FORWARD)

    def backward(self, spec: LayerSpec) -> Seconds:
        """Return backward, and what is computed again for it."""
        remat, compute = self.config.train.remat, self.compute.backward(spec)
        if remat == EVERYTHING:
            return self._with_comm(spec, compute, _Pass(2, 0, 1, BACKWARD, gradients=1))
        kept = decided_names(remat)
        # Tokens are sent again only where they were not kept; outputs never.
        trips = 2 + ("dispatch" not in kept)
        # Of four sums over the tensor axis, attention's result is one.
        activations = 2 - ("residual" in kept) / 4
        way = _Pass(trips, 0, activations, BACKWARD + 1, gradients=1)
        again = self.compute.forward(spec) + self.compute.spared(spec, kept) * -1
        return self._with_comm(spec, compute + again, way)

    def _with_comm(self, spec: LayerSpec, compute: Seconds, way: _Pass) -> Seconds:
        """Add a layer's communication.

            exposed = edge + max(0, exchange + tensor - edge - compute (n - 1) / n)

        for n streams, since a stream hides behind the others only; edge is what no other stream
        can hide: the first dispatch and the last combine of a forward layer, and likewise the
        first stream's way over the tensor axis into attention and the last one's out.

        Nothing hides the gathering of dense weights, with which a layer begins, nor the sum of
        their gradients, with which it ends. What is gathered of experts hides behind the attention
        of the stream that comes first, or last; but not beside an exchange, as XLA schedules them.
        Sums over replicas hide behind what compute is left.

        Args:
            spec: the kind of layer.
            compute: its work in this direction.
            way: the direction.
        """
        streams = self.share.streams
        one = self._exchange(spec)
        exchange = way.trips * streams * one
        tensor = way.activations * self._tensor_sums(spec)
        edge = min(exchange, way.edges * one) + way.edges * tensor / (4 * streams)
        behind = compute.compute * (streams - 1) / streams
        exposed = edge + max(0.0, exchange + tensor - edge - behind)
        spare = max(0.0, compute.compute - (exchange + tensor - exposed))
        dense, experts = self._gathered(spec)
        gathers = 1 + way.gradients
        cover = 0.0 if exchange else self.compute.dense(spec).compute / streams
        sums = way.gradients * self._gradients(spec)
        return compute + Seconds(
            exchange=exchange,
            tensor=tensor,
            weights=gathers * (dense + experts),
            gradients=sums,
            imbalance=self._imbalance(spec, way),
            exposed=exposed
            + gathers * (dense + max(0.0, experts - cover))
            + max(0.0, sums - spare),
        )

    def _exchange(self, spec: LayerSpec) -> float:
        """Return seconds of one trip of one stream's rows."""
        if spec.kind != "moe":
            return 0.0
        group, width = self.group(EXPERT), self.config.model.d_model
        dtype = self.config.precision.compute

        def size(message: Message) -> int:
            return message.rows_with_numbers(width, dtype) * width * self.width

        return sum(
            collective_time(message.kind, size(message), group, self.topology)
            for message in self.share.messages
        )

    def _imbalance(self, spec: LayerSpec, way: _Pass) -> float:
        """Return seconds of further rounds, which everyone takes part in, or of waiting.

        What is sent, and computed by an only expert, follows the rounds' sizes; grouped experts
        follow the rows of the busiest device.
        """
        share = self.share
        further = share.further_rounds(self.skew) * self.config.exchange.round_fraction
        beyond = share.skew_of_device(self.skew) if share.is_grouped else further
        work = way.work * self.compute.experts(spec).compute
        sent = way.trips * share.streams * self._exchange(spec)
        return beyond * work + further * sent

    def _tensor_sums(self, spec: LayerSpec) -> float:
        """Return seconds of a forward layer's sums over the tensor axis.

        Activations into attention and out of it, into and out of the MLP; to the experts, what
        reached them by the exchange.
        Without sequence parallelism that is two all-reduces, which cost as much.
        """
        share = self.share
        if share.tensor == 1:
            return 0.0
        row = self.config.model.d_model * self.width
        both = self._over_tensor(share.tokens * row)
        if spec.kind == "moe":
            return both + share.streams * self._over_tensor(share.arrivals * row)
        return 2 * both

    def _over_tensor(self, size: float) -> float:
        """Return seconds of an all-gather and a reduce-scatter, or of an all-reduce."""
        return collective_time("all-reduce", size, self.group(TENSOR), self.topology)

    def _gathered(self, spec: LayerSpec) -> tuple[float, float]:
        """Return seconds to gather weights, or scatter gradients, once: dense ones, experts'."""
        each, share = self.share.parameters, self.share
        dense = self._gathering(each.dense[spec], share.dense_parts, self._dense_axes)
        if share.transport.gathers_experts:
            experts = self._gathering(each.experts[spec], self._batch_parts, (FSDP, EXPERT))
        else:
            experts = self._gathering(each.experts[spec], self.config.mesh.fsdp, (FSDP,))
        return dense, experts

    def _gathering(self, elements: float, parts: int, axes: tuple[str, ...]) -> float:
        size = elements * parts * self.width
        return collective_time("all-gather", size, self.group(*axes), self.topology)

    @property
    def _dense_axes(self) -> tuple[str, ...]:
        return (FSDP, EXPERT) if self.config.sharding.dense == "fsdp_expert" else (FSDP,)

    @property
    def _batch_parts(self) -> int:
        return self.config.mesh.fsdp * self.config.mesh.expert

    def _gradients(self, spec: LayerSpec) -> float:
        """Return seconds to sum a layer's gradients in every pass.

        A pipeline adds its microbatches up first.
        """
        if self.share.schedule.stages > 1:
            return 0.0
        return self.layer_sums(spec)

    def layer_sums(self, spec: LayerSpec) -> float:
        """Return seconds to sum one layer's gradients over all that hold the same parameters."""
        each = self.share.parameters
        copies = [axis for axis in (DATA, EXPERT) if axis not in self._dense_axes]
        return self.summed(each.dense[spec], *copies) + self.summed(each.experts[spec], DATA)

    def end_sums(self) -> float:
        """Return seconds to sum the gradients of embedding and head."""
        copies = [axis for axis in (PIPE, DATA, EXPERT) if axis not in self._dense_axes]
        return self.summed(self.share.parameters.ends, *copies)

    def summed(self, elements: float, *axes: str) -> float:
        """Return seconds of an all-reduce of gradients."""
        size = elements * DTYPE_BYTES[self.config.precision.params]
        return collective_time("all-reduce", size, self.group(*axes), self.topology)

    def group(self, *axes: str) -> Group:
        """Return the devices along mesh axes, as links see them."""
        return axis_group(self.config.mesh, axes, self.topology)
