"""Clusters as data: every number has a source, names are those of GPUs, mistakes are named."""

import dataclasses

import pytest

from moe_jax.hardware.clusters import Cluster, known_clusters, parse_clusters
from moe_jax.hardware.gpus import UNSOURCED, known_gpus


def test_every_gpu_has_a_cluster_of_its_name():
    assert known_clusters().keys() == known_gpus().keys()


@pytest.mark.parametrize("cluster", known_clusters().values(), ids=known_clusters())
def test_every_number_has_a_source(cluster):
    assert cluster.sources.keys() == {f.name for f in dataclasses.fields(Cluster)} - set(UNSOURCED)


def test_nvlink_of_a_chip_agrees_with_its_number_of_links():
    # 25 GB/s per link and direction for NVLink 3 and 4, 50 for NVLink 5.
    per_link = {
        name: cluster.nvlink_bytes_per_s / known_gpus()[name].nvlink_links
        for name, cluster in known_clusters().items()
    }
    assert per_link == {"h100": 25e9, "h200": 25e9, "a100-80gb": 25e9, "b200": 50e9}


MINE = """
[sources]
s = "somewhere"
[clusters.mine]
title = "Mine"
max_devices_per_host = 4
nvlink_bytes_per_s = 1e9
network_bytes_per_s = 1e8
nvlink_latency_s = 1e-6
network_latency_s = 1e-5
[clusters.mine.sources]
max_devices_per_host = "s"
nvlink_bytes_per_s = "s"
network_bytes_per_s = "s"
nvlink_latency_s = "s"
network_latency_s = "s"
"""


def test_a_users_own_cluster_is_read():
    assert parse_clusters(MINE)["mine"].network_bytes_per_s == 1e8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title", "name_on_the_door", "cluster 'mine': fields missing: title"),
        ("1e8", "inf", "network_bytes_per_s must be a positive float, got inf"),
        ('"Mine"', "1", "cluster 'mine': title must be a string, got 1"),
        ("1e8", '"fast"', "cluster 'mine': network_bytes_per_s must be a positive float"),
        ('max_devices_per_host = "s"', "", "name the source of max_devices_per_host"),
        ('s = "somewhere"', "", r"add s to \[sources\]"),
    ],
)
def test_mistakes_in_a_file_are_named(old, new, message):
    with pytest.raises(ValueError, match=message):
        parse_clusters(MINE.replace(old, new))
