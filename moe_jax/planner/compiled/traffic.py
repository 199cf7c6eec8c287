"""What a program's collectives amount to: bytes on each link, padded rows, busy adapters, costs.

The bytes of one collective are `link_bytes.py`, the time of one `hardware/network.py`, what must
cross at least `modelled/bounds.py`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moe_jax.config.schema import Config
from moe_jax.data.batch import batch_shape
from moe_jax.hardware.network import collective_time
from moe_jax.hardware.topology import Topology
from moe_jax.inference.programs import decoding_config
from moe_jax.model.pattern import layer_sequence
from moe_jax.moe.exchange.choose import choose_transport
from moe_jax.moe.exchange.contract import TransportName, capacity
from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.compiled.link_bytes import Call, calls_per_step, sent, widest_group
from moe_jax.planner.modelled.bounds import inter_host_lower_bound
from moe_jax.planner.report.figures import CollectiveCost, Nic, Rows, Wire
from moe_jax.planner.report.results import Mode
from moe_jax.sharding.tensor import TensorAxis


@dataclass(frozen=True)
class Batch:
    """What a MoE layer on one device works on: `microbatches` x `streams` slices of `tokens`."""

    microbatches: int
    streams: int
    tokens: int


def device_batch(config: Config, mode: Mode = "forward") -> Batch:
    """A device's share of a step, in the layers of its pipeline stage."""
    mesh, tensor = config.mesh, TensorAxis(config.mesh.tensor, config.sharding.sequence)
    if mode == "decode":
        return Batch(1, 1, config.train.global_batch // (mesh.data * mesh.fsdp * mesh.expert))
    accumulation, streams, rows, length = batch_shape(config)
    microbatches = config.pipeline.microbatches
    shards = mesh.data * mesh.fsdp * mesh.expert * tensor.token_shards
    return Batch(accumulation * microbatches, streams, rows * length // (shards * microbatches))


def make_wire(clock: Clock, config: Config, topology: Topology, mode: Mode, timed: bool) -> Wire:
    """Bytes, rows and adapters of a step.

    Args:
        timed: whether the clock's times mean anything (XLA has none for some GPUs).
    """
    calls = calls_per_step(clock.module)
    each = [sent(call.collective, topology) for call in calls]
    intra = sum(s.intra_host * call.times for s, call in zip(each, calls, strict=True))
    inter = sum(s.inter_host * call.times for s, call in zip(each, calls, strict=True))
    length = 1 if mode == "decode" else config.data.sequence_length
    tokens = config.train.global_batch * length / topology.devices
    exchanges = "moe" in config.model.layers and config.mesh.expert > 1
    return Wire(
        kind="compiled",
        intra_host_bytes=intra,
        inter_host_bytes=inter,
        intra_host_bytes_per_token=intra / tokens,
        inter_host_bytes_per_token=inter / tokens,
        inter_host_lower_bound_bytes=(
            inter_host_lower_bound(config, topology, mode) if exchanges else None
        ),
        rows=exchange_rows(config, mode),
        nic=_nic(clock, calls, inter, topology) if timed and topology.hosts > 1 else None,
    )


def exchange_rows(config: Config, mode: Mode = "forward") -> Rows | None:
    """Rows of one forward pass on one device (of a pipeline, in its stage's share of the layers);
    None without MoE layers.

    all_to_all: capacity rows to each expert; all_gather and local: capacity rows of each expert
    that the device computes.
    """
    moe_layers = sum(spec.kind == "moe" for spec in layer_sequence(config.model))
    if not moe_layers:
        return None
    moe, devices = config.model.moe, config.mesh.expert
    batch = device_batch(config, mode)
    if mode == "decode":
        config = decoding_config(config, config.train.global_batch)
    transport = choose_transport(config, devices, batch.tokens) if devices > 1 else "local"
    slices = moe_layers * batch.microbatches * batch.streams // config.mesh.pipe
    filled = batch.tokens * moe.top_k
    return Rows("modelled", slices * filled, slices * (_slots(config, transport, batch) - filled))


def _slots(config: Config, transport: TransportName, batch: Batch) -> int:
    moe, devices = config.model.moe, config.mesh.expert
    factor, experts = config.exchange.capacity_factor, moe.num_experts
    if transport == "all_to_all":
        return experts * capacity(batch.tokens, moe.top_k, experts, factor, devices)
    if transport == "all_gather":
        everyone = batch.tokens * devices
        return experts // devices * capacity(everyone, moe.top_k, experts, factor)
    return experts * capacity(batch.tokens, moe.top_k, experts, factor)


def collective_costs(clock: Clock, topology: Topology, timed: bool) -> tuple[CollectiveCost, ...]:
    """XLA's time of each kind of collective beside ours, those with most bytes first."""
    times: Counter[tuple] = Counter()
    sample: dict[tuple, Call] = {}
    for call in calls_per_step(clock.module):
        c = call.collective
        key = (c.kind, c.operand_bytes, c.result_bytes, c.groups)
        times[key] += call.times
        sample.setdefault(key, call)
    costs = [_cost(clock, sample[key], count, topology, timed) for key, count in times.items()]
    return tuple(sorted(costs, key=lambda c: -c.operand_bytes * c.calls_per_step))


def _cost(clock: Clock, call: Call, count: int, topology: Topology, timed: bool) -> CollectiveCost:
    c = call.collective
    group = widest_group(c, topology)
    model_s = collective_time(c.kind, max(c.operand_bytes, c.result_bytes), group, topology)
    told = timed and clock.is_timed(c.computation, c.name)
    own_s = clock.own_s(c.computation, c.name) if told else None
    return CollectiveCost(
        c.kind, c.operand_bytes, group.devices, group.hosts, count, own_s, model_s
    )


def _nic(clock: Clock, calls: Sequence[Call], inter_host_bytes: float, topology: Topology) -> Nic:
    line = topology.network_bytes_per_s
    crossing_s = sum(
        call.times * clock.own_s(call.collective.computation, call.collective.name)
        for call in calls
        if widest_group(call.collective, topology).hosts > 1
    )
    step_s = clock.times(clock.entry).total_s
    return Nic(
        kind="modelled",
        line_bytes_per_s=line,
        inside_windows=inter_host_bytes / (line * crossing_s) if crossing_s else 0.0,
        over_step=inter_host_bytes / (line * step_s),
    )
