"""Topologies by name, and detected from devices that only look like the real ones."""

import jax
import pytest
from support.fake_devices import FakeDevice, fake

from moe_jax.hardware.topology import (
    TopologyError,
    detect_topology,
    find_topology,
    named_topology,
    parse_cluster,
)


def test_named_cluster_has_its_servers_numbers():
    h100 = named_topology("h100", 2, 8)
    assert (h100.name, h100.devices, h100.unknown) == ("h100-8x2", 16, ())
    # 900 GB/s NVLink counts both directions; 400 Gb/s is 50 GB/s.
    assert (h100.nvlink_bytes_per_s, h100.network_bytes_per_s) == (450e9, 400e9 / 8)
    assert [h100.host_of(i) for i in (0, 7, 8, 15)] == [0, 0, 1, 1]


@pytest.mark.parametrize("chip", ["h100", "h200", "a100-80gb", "b200"])
def test_every_gpu_cluster_is_complete_and_ordered(chip):
    topology = named_topology(chip, 1, 8)
    assert topology.unknown == ()
    assert topology.nvlink_bytes_per_s > topology.network_bytes_per_s
    assert topology.nvlink_latency_s < topology.network_latency_s
    assert topology.memory_bytes > 70 * 2**30


@pytest.mark.parametrize("index", [-1, 16])
def test_device_outside_the_cluster_is_refused(index):
    with pytest.raises(TopologyError, match=f"device index {index} .* 16 devices"):
        named_topology("h100", 2, 8).host_of(index)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("h100-8", ("h100", 8, 0)),
        ("h100-8x2", ("h100", 8, 2)),
        ("cpu-4x16", ("cpu", 4, 16)),
        ("a100-80gb-8x2", ("a100-80gb", 8, 2)),
    ],
)
def test_cluster_name_is_parsed(name, parts):
    assert parse_cluster(name) == parts


@pytest.mark.parametrize("name", ["h100", "h100-", "h100-8x", "h100-0", "8xh100", "H100-8", ""])
def test_garbled_cluster_name_shows_the_form_and_the_chips(name):
    with pytest.raises(TopologyError, match=r"h100-8x2.*chips h100, h200, a100-80gb, b200, cpu"):
        parse_cluster(name)


@pytest.mark.parametrize(
    ("chip", "per_host", "message"),
    [("h300", 8, r"h300.*h100, h200.*clusters\.toml"), ("h100", 16, r"1 to 8 .*16.*h100-8x2")],
)
def test_cluster_that_does_not_exist_is_refused(chip, per_host, message):
    with pytest.raises(TopologyError, match=message):
        named_topology(chip, 1, per_host)


def test_fake_cluster_stands_in_for_emulated_devices():
    topology = find_topology("h100-4x2", jax.devices()[:8])
    assert (topology.hosts, topology.devices_per_host, topology.device_kind) == (2, 4, "h100")


def test_hosts_follow_from_the_devices_when_left_out():
    assert find_topology("h100-8", fake(4, 8)).hosts == 4


@pytest.mark.parametrize("name", ["h100-8x2", "h100-3"])
def test_cluster_of_another_size_is_refused(name):
    with pytest.raises(TopologyError, match=f"{name} has .* and the job has 8: .*detect"):
        find_topology(name, jax.devices()[:8])


def test_emulated_devices_are_one_host_with_unknown_links():
    topology = find_topology("detect", jax.devices()[:8])
    assert (topology.name, topology.hosts, topology.devices_per_host) == ("detected", 1, 8)
    assert "network_bytes_per_s" in topology.unknown


@pytest.mark.parametrize(("hosts", "processes"), [(2, 1), (2, 8), (2, 2), (1, 8), (1, 1)])
def test_gpu_hosts_are_found_for_any_number_of_processes(hosts, processes):
    topology = detect_topology(fake(hosts, 8, processes))
    assert (topology.hosts, topology.devices_per_host) == (hosts, 8)
    assert (topology.device_kind, topology.network_bytes_per_s) == ("h100", 50e9)


def test_processes_are_hosts_in_an_emulated_cluster():
    devices = [FakeDevice(i, i // 4, platform="cpu", device_kind="cpu") for i in range(8)]
    assert detect_topology(devices).hosts == 2


def test_unknown_chip_keeps_its_name_and_marks_its_numbers():
    topology = detect_topology(fake(1, 8, device_kind="Quantum X1"))
    assert topology.device_kind == "Quantum X1"
    assert len(topology.unknown) == 5


@pytest.mark.parametrize("kind", ["NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB", "NVIDIA H200 NVL"])
def test_a_relative_of_a_known_chip_does_not_borrow_its_links(kind):
    assert "nvlink_bytes_per_s" in detect_topology(fake(1, 8, device_kind=kind)).unknown


@pytest.mark.parametrize(
    "devices",
    [fake(2, 8)[:-1], [*fake(1, 4), FakeDevice(9, 0, device_kind="A100")], []],
    ids=["uneven", "mixed", "none"],
)
def test_unequal_hosts_are_refused(devices):
    with pytest.raises(TopologyError, match="equal hosts of one kind"):
        detect_topology(devices)
