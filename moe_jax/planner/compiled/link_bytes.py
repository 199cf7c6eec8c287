"""Bytes that cross links in one call of a compiled program, per device: NVLink and network apart.

Counted from the program's own collectives, times the trips of the loops they stand in; branches
(further rounds) left out. What has to cross at least is `modelled/bounds.py`, how long it takes is
`hardware/network.py`.

Convention, for what one of the N devices of a group on H hosts sends; B is what it reads, F the
whole array (what an all-gather writes, what the others read):

    all-to-all            B / N to every other device
    collective-permute    B to its target
    all-gather,           (N - H) / N F inside the host and (H - 1) / N F to other hosts: each
    reduce-scatter        piece crosses to every other host once and spreads there over NVLink
    all-reduce            a reduce-scatter and an all-gather

Only what leaves a device counts. Devices that send different amounts are averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moe_jax.errors import UserError
from moe_jax.hardware.network import Group, group_of
from moe_jax.hardware.topology import Topology
from moe_jax.planner.xla.hlo import Collective, HloComputation, collectives_of
from moe_jax.planner.xla.loops import executions

Groups = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Sent:
    """Bytes that leave one device (mean over devices), in one run of something."""

    intra_host: float
    inter_host: float


@dataclass(frozen=True)
class Call:
    """A collective of a program and how often it runs in a step."""

    collective: Collective
    times: int


def calls_per_step(module: Mapping[str, HloComputation]) -> tuple[Call, ...]:
    """Return the collectives of a program that run on balanced routing."""
    times = executions(module)
    return tuple(
        Call(collective, times[name])
        for name, computation in module.items()
        if times[name]
        for collective in collectives_of(computation)
    )


def sent(collective: Collective, topology: Topology) -> Sent:
    """Return what one device sends in one run of a collective, by the convention above.

    Args:
        collective: of a compiled program.
        topology: which devices share a host.

    Raises:
        UserError: for a kind without a convention.
    """
    if collective.kind not in _CONVENTIONS:
        raise UserError(
            f"{collective.name}: no convention for the bytes of {collective.kind!r}; there is one "
            f"for {', '.join(_CONVENTIONS)}"
        )
    return _CONVENTIONS[collective.kind](collective, groups_of(collective, topology), topology)


def groups_of(collective: Collective, topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Return the devices that talk to each other; of a permute, its (source, target) pairs."""
    return collective.groups or (tuple(range(topology.devices)),)


def widest_group(collective: Collective, topology: Topology) -> Group:
    """Return, of a collective's groups, the one over the most hosts."""
    shapes = {group_of(group, topology) for group in groups_of(collective, topology)}
    return max(shapes, key=lambda group: (group.hosts, -group.devices_per_host))


def _all_to_all(c: Collective, groups: Groups, topology: Topology) -> Sent:
    intra = inter = 0.0
    for group in groups:
        hosts = [topology.host_of(d) for d in group]
        pairs = sum(hosts.count(h) - 1 for h in hosts)
        share = c.operand_bytes / len(group)
        intra += pairs * share
        inter += (len(group) * (len(group) - 1) - pairs) * share
    return _mean(intra, inter, groups)


def _gather(c: Collective, groups: Groups, topology: Topology) -> Sent:
    return _ring(c.result_bytes, groups, topology)


def _scatter(c: Collective, groups: Groups, topology: Topology) -> Sent:
    return _ring(c.operand_bytes, groups, topology)


def _reduce(c: Collective, groups: Groups, topology: Topology) -> Sent:
    return _ring(2 * c.operand_bytes, groups, topology)


def _ring(whole_bytes: int, groups: Groups, topology: Topology) -> Sent:
    intra = inter = 0.0
    for group in groups:
        hosts = len({topology.host_of(d) for d in group})
        intra += (len(group) - hosts) * whole_bytes
        inter += (hosts - 1) * whole_bytes
    return _mean(intra, inter, groups)


def _permute(c: Collective, groups: Groups, topology: Topology) -> Sent:
    moves = [(a, b) for a, b in groups if a != b]
    near = sum(topology.host_of(a) == topology.host_of(b) for a, b in moves)
    per_device = c.operand_bytes / topology.devices
    return Sent(near * per_device, (len(moves) - near) * per_device)


def _mean(intra: float, inter: float, groups: Groups) -> Sent:
    devices = sum(len(group) for group in groups)
    return Sent(intra / devices, inter / devices)


_CONVENTIONS: dict[str, Callable[..., Sent]] = {
    "all-to-all": _all_to_all,
    "all-gather": _gather,
    "reduce-scatter": _scatter,
    "all-reduce": _reduce,
    "collective-permute": _permute,
}
