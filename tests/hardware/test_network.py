"""Modelled times of collectives, held against published measurements and against themselves."""

from dataclasses import replace

import pytest

from moe_jax.config.schema import MeshConfig
from moe_jax.hardware.network import (
    Group,
    axis_group,
    collective_time,
    group_of,
)
from moe_jax.hardware.topology import named_topology

MIB, GIB = 2**20, 2**30
H100 = named_topology("h100", 16, 8)
#: The H100 as sold to China: 8 links of NVLink, "~160 GB/s maximum" in DeepEP's README.
H800 = replace(H100, nvlink_bytes_per_s=200e9)


def bus_bandwidth(kind, size, group, topology=H100):
    """What nccl-tests call busbw: bytes that leave a device, per second."""
    n = group.devices
    factor = 2 * (n - 1) / n if kind == "all-reduce" else (n - 1) / n
    return factor * size / collective_time(kind, size, group, topology)


@pytest.mark.parametrize(
    ("devices", "size", "published"),
    [
        # 8 GPUs, nccl-tests.
        (8, 64 * MIB, 307e9),
        (8, 2 * GIB, 388e9),
        # github.com/NVIDIA/nccl/issues/2169, NCCL 2.30.4.
        (4, 524288000, 334.9e9),
    ],
)
def test_all_to_all_inside_a_host_is_within_15_percent_of_published(devices, size, published):
    assert bus_bandwidth("all-to-all", size, Group(1, devices)) == pytest.approx(
        published, rel=0.15
    )


def test_all_to_all_of_64_h800_is_within_15_percent_of_published():
    # github.com/NVIDIA/nccl/issues/1531: 337.8 µs out of place, 295.6 in place.
    seconds = collective_time("all-to-all", 8 * MIB, Group(8, 8), H800)
    assert seconds == pytest.approx((337.8e-6 + 295.6e-6) / 2, rel=0.15)


def test_ring_inside_a_host_is_within_15_percent_of_published():
    # github.com/NVIDIA/nccl-tests/issues/212: 370 GB/s for anything but NVLink SHARP.
    assert bus_bandwidth("all-gather", 4 * GIB, Group(1, 8)) == pytest.approx(370e9, rel=0.15)


def test_flat_all_to_all_across_hosts_is_bound_by_the_adapters():
    # NCCL's maintainers: busbw is h / (h - 1) x the adapter's rate, for many devices per host
    # (github.com/NVIDIA/nccl-tests/issues/130); of a device's 15 peers on 2 hosts 8 are away.
    for hosts in (2, 4, 16):
        expected = hosts / (hosts - 1) * 45e9
        rate = bus_bandwidth("all-to-all", 64 * GIB, Group(hosts, 8))
        assert rate == pytest.approx(expected, rel=0.07)


def test_ring_across_hosts_uses_all_adapters_of_a_host():
    wide, narrow = (bus_bandwidth("all-gather", GIB, Group(2, g)) for g in (8, 1))
    assert wide > 7 * narrow
    assert narrow == pytest.approx(45e9, rel=0.01)


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    group = Group(2, 8)
    parts = [collective_time(k, GIB, group, H100) for k in ("reduce-scatter", "all-gather")]
    assert collective_time("all-reduce", GIB, group, H100) == pytest.approx(sum(parts))


def test_permute_takes_the_link_between_its_ends():
    inside, between = (
        collective_time("collective-permute", GIB, Group(h, 2 // h), H100) for h in (1, 2)
    )
    assert between == pytest.approx(inside * 360 / 45, rel=0.01)


def test_more_bytes_take_longer_and_one_device_takes_none():
    for kind in ("all-to-all", "all-gather", "reduce-scatter", "all-reduce"):
        times = [collective_time(kind, size, Group(2, 8), H100) for size in (1, MIB, GIB)]
        assert 0 < times[0] < times[1] < times[2]
        assert collective_time(kind, GIB, Group(1, 1), H100) == 0


def test_groups_are_read_off_devices_and_axes():
    assert group_of([0, 8, 16], H100) == Group(3, 1)
    assert group_of([0, 1, 9], H100) == Group(2, 2)
    topology = named_topology("h100", 4, 8)
    mesh = MeshConfig(data=2, expert=8, tensor=2)
    shapes = [axis_group(mesh, axes, topology) for axes in (("tensor",), ("expert",), ("data",))]
    assert shapes == [Group(1, 2), Group(2, 4), Group(2, 1)]
    assert axis_group(mesh, ("data", "expert"), topology) == Group(4, 4)


def test_mesh_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mesh has 8 devices and h100-8x16 has 128"):
        axis_group(MeshConfig(expert=8), ("expert",), H100)


def test_unknown_kind_and_unknown_links_are_refused():
    with pytest.raises(ValueError, match="no model of 'ragged-all-to-all'"):
        collective_time("ragged-all-to-all", 1, Group(1, 8), H100)
    with pytest.raises(ValueError, match="nvlink_bytes_per_s is unknown"):
        collective_time("all-to-all", 1, Group(1, 8), named_topology("cpu", 1, 8))
