"""What a program's collectives amount to: bytes on each link, padded rows, busy adapters, costs.

The bytes of one collective are `link_bytes.py`, the time of one `hardware/network.py`, what must
cross at least `modelled/bounds.py`.
"""

from collections import Counter
from collections.abc import Sequence

from moe_jax.config.schema import Config
from moe_jax.hardware.network import collective_time
from moe_jax.hardware.topology import Topology
from moe_jax.model.pattern import layer_sequence
from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.compiled.link_bytes import Call, calls_per_step, sent, widest_group
from moe_jax.planner.modelled.bounds import inter_host_lower_bound
from moe_jax.planner.modelled.per_device import Share
from moe_jax.planner.report.figures import CollectiveCost, LinkBytes, Mode, Nic, Rows
from moe_jax.planner.report.speed import step_tokens


def make_link_bytes(
    clock: Clock, config: Config, topology: Topology, mode: Mode, timed: bool
) -> LinkBytes:
    """Return bytes, rows and adapters of a step.

    Args:
        clock: the compiled program's times.
        config: of the plan.
        topology: which devices share a host, and their links.
        mode: what the program does.
        timed: whether the clock's times mean anything (XLA has none for some GPUs).
    """
    calls = calls_per_step(clock.module)
    each = [sent(call.collective, topology) for call in calls]
    intra = sum(s.intra_host * call.times for s, call in zip(each, calls, strict=True))
    inter = sum(s.inter_host * call.times for s, call in zip(each, calls, strict=True))
    tokens = step_tokens(config, mode) / topology.devices
    exchanges = "moe" in config.model.layers and config.mesh.expert > 1
    return LinkBytes(
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


def exchange_rows(config: Config, mode: Mode) -> Rows | None:
    """Return the places for tokens of one forward pass on a device; None without MoE layers.

    Of a pipeline, those of its stage's share of the layers.

    Args:
        config: of the plan.
        mode: what the program does.
    """
    moe_layers = sum(spec.kind == "moe" for spec in layer_sequence(config.model))
    if not moe_layers:
        return None
    share = Share(config, mode)
    passes = share.accumulation * share.schedule.microbatches * share.streams
    slices = moe_layers * passes // config.mesh.pipe
    top_k = config.model.moe.top_k
    each = share.transport.choices_per_arrival(share.exchange, top_k)
    filled = min(round(share.routed_tokens * top_k / each), share.slots)
    return Rows("modelled", slices * filled, slices * (share.slots - filled))


def collective_costs(clock: Clock, topology: Topology, timed: bool) -> tuple[CollectiveCost, ...]:
    """Return XLA's time of each kind of collective beside ours, those with most bytes first.

    Args:
        clock: the compiled program's times.
        topology: which devices share a host, and their links.
        timed: whether the clock's times mean anything.
    """
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
    known = timed and clock.is_timed(c.computation, c.name)
    own_s = clock.own_s(c.computation, c.name) if known else None
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
