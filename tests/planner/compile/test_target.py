"""What XLA is told about a GPU, and targets that make no sense."""

import dataclasses
import re

import pytest

from moe_jax.hardware.clusters import known_clusters
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.compile.target import Estimator, Target, target_text

BF16 = 16


def tensor_rates(text):
    """Element type -> FLOP/s of the whole chip, from the proto text."""
    cores = int(re.search(r"core_count: (\d+)", text)[1])
    matrix = text.partition("matrix_unit_description")[2]
    rates = re.findall(
        r"key: (\d+) value \{ clock_rate_ghz: ([\d.]+) units_per_core: (\d+) ops_per_clock: (\d+)",
        matrix,
    )
    return {int(k): float(g) * 1e9 * int(u) * int(o) * 2 * cores for k, g, u, o in rates}


@pytest.mark.parametrize("name", ["h100", "h200", "a100-80gb", "b200"])
def test_tensor_cores_add_up_to_the_published_peak(name):
    gpu = gpu_by_name(name)
    assert tensor_rates(target_text(gpu))[BF16] == pytest.approx(gpu.peak_bf16_flops, rel=1e-5)


def test_narrow_floats_only_where_the_chip_has_them():
    fp8, fp4 = 20, 32
    rates = {n: tensor_rates(target_text(gpu_by_name(n))) for n in ("a100-80gb", "h100", "b200")}
    assert fp8 not in rates["a100-80gb"]
    assert rates["h100"][fp8] == pytest.approx(2 * rates["h100"][BF16])
    assert fp4 not in rates["h100"]
    assert rates["b200"][fp4] == pytest.approx(4 * rates["b200"][BF16])


def test_architecture_features_start_with_hopper():
    assert "major: 8 minor: 0 feature_extension: NONE" in target_text(gpu_by_name("a100-80gb"))
    assert "major: 9 minor: 0 feature_extension: ACCELERATED" in target_text(gpu_by_name("h100"))


def test_estimator_settings_are_integers_and_know_the_host():
    options = Estimator(nic_gbytes_per_s=90).options(devices_per_host=4)
    assert list(options.values()) == [
        "nic_speed_gbps=90,rtt_us=1,chunk_prep_us=1,gpus_per_node=4,partition_size=4"
    ]


def test_empty_target_is_refused():
    with pytest.raises(ValueError, match="hosts = 0"):
        Target(gpu_by_name("h100"), hosts=0)


@pytest.mark.parametrize(("name", "rate"), [("h100", 45), ("h200", 45), ("a100-80gb", 22)])
def test_estimator_takes_the_rate_of_the_clusters_adapters(name, rate):
    assert Target(gpu_by_name(name), hosts=2).estimator.nic_gbytes_per_s == rate


def test_topology_has_the_clusters_links_and_the_chips_memory():
    target = Target(gpu_by_name("h200"), hosts=2)
    assert (target.topology.name, target.topology.devices) == ("h200-8x2", target.devices)
    assert target.topology.memory_bytes == target.gpu.memory_bytes


def test_host_with_more_devices_than_its_servers_is_refused():
    with pytest.raises(ValueError, match="h100 host has 1 to 8 devices, not 16"):
        Target(gpu_by_name("h100"), hosts=1, devices_per_host=16)


def test_gpu_without_a_cluster_needs_one():
    gpu = dataclasses.replace(gpu_by_name("h100"), name="mine")
    with pytest.raises(ValueError, match=r"no cluster of 'mine'.*Target\(cluster=...\)"):
        Target(gpu)
    cluster = dataclasses.replace(known_clusters()["h100"], network_bytes_per_s=25e9)
    assert Target(gpu, cluster=cluster).estimator.nic_gbytes_per_s == 22


def test_equal_targets_are_one_key():
    assert len({Target(gpu_by_name("h100"), 2), Target(gpu_by_name("h100"), 2)}) == 1


@pytest.mark.parametrize(
    ("gpu", "per_host", "known"), [("h100", 8, True), ("h100", 6, False), ("a100-80gb", 8, False)]
)
def test_xla_knows_the_times_of_some_targets_only(gpu, per_host, known):
    target = Target(gpu_by_name(gpu), 1, per_host)
    assert target.has_timeline == known
    assert f"{per_host} x {gpu}" in target.why_no_timeline
