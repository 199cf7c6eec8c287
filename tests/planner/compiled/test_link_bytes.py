"""What a device sends in one collective, by hand-computed examples."""

import dataclasses

import pytest
from support.planner.compiles import collectives
from support.planner.hand_hlo import HLO

from moe_jax.hardware.topology import named_topology
from moe_jax.planner.compiled.link_bytes import Sent, calls_per_step, sent, widest_group
from moe_jax.planner.xla.hlo import Collective, parse_hlo

TWO_BY_TWO = named_topology("h100", 2, 2)
ALL = ((0, 1, 2, 3),)
MIB = 2**20


def collective(kind, operand, result, groups=ALL):
    return Collective("c", kind, "main", (), operand, result, groups, True)


@pytest.mark.parametrize(
    ("one", "intra", "inter"),
    [
        (collective("all-to-all", 4 * MIB, 4 * MIB), 1, 2),
        (collective("all-to-all", 4 * MIB, 4 * MIB, ((0, 1), (2, 3))), 2, 0),
        (collective("all-to-all", 4 * MIB, 4 * MIB, ((0, 2), (1, 3))), 0, 2),
        (collective("all-gather", MIB, 4 * MIB), 2, 1),
        (collective("reduce-scatter", 4 * MIB, MIB), 2, 1),
        (collective("all-reduce", 4 * MIB, 4 * MIB), 4, 2),
        (collective("collective-permute", MIB, MIB, ((0, 1), (1, 2), (2, 3), (3, 0))), 0.5, 0.5),
        (collective("collective-permute", MIB, MIB, ((0, 1), (2, 2))), 0.25, 0),
    ],
)
def test_only_what_leaves_a_device_counts(one, intra, inter):
    assert sent(one, TWO_BY_TWO) == Sent(intra * MIB, inter * MIB)


def test_no_groups_are_all_devices():
    assert sent(collective("all-reduce", 4, 4, ()), TWO_BY_TWO) == sent(
        collective("all-reduce", 4, 4), TWO_BY_TWO
    )


def test_what_one_device_sends_and_receives_is_the_same_within_a_ring():
    """Everything an all-gather writes must have come from somewhere, over either link."""
    one = sent(collective("all-gather", MIB, 4 * MIB), TWO_BY_TWO)
    assert one.intra_host + one.inter_host == 3 * MIB


def test_kind_without_a_convention_is_refused():
    with pytest.raises(ValueError, match="no convention for the bytes of 'ragged-all-to-all'"):
        sent(collective("ragged-all-to-all", 4, 4), TWO_BY_TWO)


def test_widest_group_crosses_hosts_if_any_does():
    pairs = collective("collective-permute", 4, 4, ((0, 1), (1, 2)))
    assert widest_group(pairs, TWO_BY_TWO).hosts == 2


def test_branches_are_left_out_and_loops_counted():
    text = HLO.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"9"}}')
    calls = {call.collective.name: call.times for call in calls_per_step(parse_hlo(text))}
    assert calls == {"first-start": 9, "bare-start": 9, "gather-start": 1, "permuted": 1}
    assert "round-start" in {c.name for c in collectives(text)}


def test_sums_do_not_depend_on_the_order_of_groups():
    one = collective("all-to-all", 4 * MIB, 4 * MIB, ((0, 1), (2, 3)))
    other = dataclasses.replace(one, groups=((2, 3), (1, 0)))
    assert sent(one, TWO_BY_TWO) == sent(other, TWO_BY_TWO)
