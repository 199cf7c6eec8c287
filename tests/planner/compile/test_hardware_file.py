"""A user's own hardware file: read beside the known, and every mistake named."""

import dataclasses

import pytest
import tomli_w

from moe_jax.hardware.clusters import known_clusters
from moe_jax.hardware.gpus import known_gpus
from moe_jax.planner.compile.hardware_file import known_hardware, load_hardware


def table(row, **changes):
    """A known GPU or cluster as its TOML table, each number with the source "s"."""
    values = dataclasses.asdict(row) | changes
    values.pop("name")
    return values | {"sources": dict.fromkeys(row.sources, "s")}


def write(tmp_path, gpus=None, clusters=None, **more):
    data = {"sources": {"s": "somewhere"}, "gpus": gpus or {}, "clusters": clusters or {}} | more
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(data))
    return path


GPU, CLUSTER = known_gpus()["h100"], known_clusters()["h100"]


def test_own_gpu_joins_the_known(tmp_path):
    path = write(
        tmp_path,
        {"Mine": table(GPU, sm_count=99)},
        {"Mine": table(CLUSTER, network_bytes_per_s=25e9)},
    )
    hardware = load_hardware(path)
    target = hardware.target("mine", hosts=3)
    assert (target.gpu.sm_count, target.topology.network_bytes_per_s) == (99, 25e9)
    assert hardware.target("h100") == known_hardware().target("H100")


def test_own_cluster_of_a_known_gpu_replaces_the_known(tmp_path):
    path = write(tmp_path, clusters={"h100": table(CLUSTER, network_bytes_per_s=12.5e9)})
    target = load_hardware(path).target("h100", 2)
    assert target.gpu is GPU
    assert target.estimator.nic_gbytes_per_s == 11


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"gpus": {"mine": table(GPU)}}, r"share a name: add \[clusters.mine\]"),
        ({"clusters": {"mine": table(CLUSTER)}}, r"share a name: add \[gpus.mine\]"),
        ({"gpu": {}}, r"unknown tables gpu: use \[gpus.NAME\]"),
        ({"gpus": {"mine": table(GPU, sm_count=0)}}, "GPU 'mine': sm_count must be a positive"),
        ({"gpus": [1]}, r"\[gpus\] must be a table, got \[1\]: write \[gpus.NAME\] for each GPU"),
        ({"clusters": 1}, r"\[clusters\] must be a table, got 1: write \[clusters.NAME\]"),
        ({"gpus": {"mine": 3}}, r"GPU 'mine' must be a table, got 3: .*\[gpus.mine\]"),
        ({"clusters": {"h100": table(CLUSTER) | {"sources": "s"}}}, "sources must be a table"),
        ({"sources": "s"}, r"\[sources\] must be a table, got 's': write lines such as"),
        ({"sources": {"s": 1}}, r"\[sources\]: s must be a string, got 1: put it in quotes"),
        ({"gpus": {"mine": table(GPU) | {"sources": {"sm_count": []}}}}, "sm_count must be a str"),
        ({"gpus": {"mine": table(GPU)}, "sources": {}}, r"GPU 'mine': add s to \[sources\]"),
    ],
)
def test_mistakes_name_the_file_the_field_and_the_remedy(tmp_path, parts, message):
    with pytest.raises(ValueError, match=f"mine.toml.*{message}"):
        load_hardware(write(tmp_path, **parts))


def test_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the hardware file .*nowhere\.toml"):
        load_hardware(tmp_path / "nowhere.toml")
    (tmp_path / "garbled.toml").write_text("[gpus")
    with pytest.raises(ValueError, match=r"garbled\.toml is not TOML"):
        load_hardware(tmp_path / "garbled.toml")
    (tmp_path / "deep.toml").write_text("gpus = " + "[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.toml is not TOML"):
        load_hardware(tmp_path / "deep.toml")


def test_unknown_gpu_lists_the_known():
    with pytest.raises(ValueError, match=r"'h1000'.*h100, h200, a100-80gb, b200.*--hardware"):
        known_hardware().target("h1000")
