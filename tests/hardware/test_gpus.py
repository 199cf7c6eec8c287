"""GPUs as data: look-ups, and that every number names a source and fits the others."""

import dataclasses
import subprocess
import sys

import pytest

from moe_jax.hardware.gpus import (
    UNSOURCED,
    Gpu,
    gpu_by_device_kind,
    gpu_by_name,
    known_gpus,
    parse_gpus,
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_device_kinds_of_jax_are_known(kind, name):
    assert gpu_by_device_kind(kind) is gpu_by_name(name)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 PCIe", ""])
def test_unknown_device_kind_has_no_peak(kind):
    assert gpu_by_device_kind(kind) is None


def test_name_in_any_case_and_unknown_name_lists_the_known():
    assert gpu_by_name("H100") is gpu_by_name("h100")
    with pytest.raises(ValueError, match=r"'h1000'.*h100, h200, a100-80gb, b200"):
        gpu_by_name("h1000")


@pytest.mark.parametrize("gpu", known_gpus().values(), ids=known_gpus())
def test_every_number_has_a_source(gpu):
    numbers = {f.name for f in dataclasses.fields(Gpu)} - set(UNSOURCED)
    assert numbers == gpu.sources.keys()


@pytest.mark.parametrize("gpu", known_gpus().values(), ids=known_gpus())
def test_peak_is_reached_at_a_clock_the_chip_has(gpu):
    assert 0.9 * gpu.clock_hz < gpu.tensor_clock_hz < 1.01 * gpu.clock_hz


def h100_toml(**changes):
    gpu = gpu_by_name("h100")
    row = {f.name: getattr(gpu, f.name) for f in dataclasses.fields(gpu)} | changes
    sources = row.pop("sources")
    row["name"] = changes.get("name")
    row["device_kinds"] = list(row["device_kinds"])
    lines = [f"{k} = {v!r}" for k, v in row.items() if v is not None]
    cited = [f'{k} = "s"' for k in sources]
    return "\n".join(
        ['[sources]\ns = "somewhere"', "[gpus.mine]", *lines, "[gpus.mine.sources]", *cited]
    )


def test_a_users_own_file_is_read():
    assert parse_gpus(h100_toml(sm_count=99))["mine"].sm_count == 99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sm_count": None}, "GPU 'mine': fields missing: sm_count"),
        ({"colour": "green"}, "fields unknown: colour: use name"),
        ({"sm_count": 1.5}, "sm_count must be a positive int, got 1.5"),
        ({"memory_bandwidth": 0.0}, "memory_bandwidth must be a positive float"),
        (
            {"memory_bandwidth": float("inf")},
            "a positive float, got inf: write a finite",
        ),
        ({"memory_bandwidth": float("nan")}, "memory_bandwidth must be a positive float, got nan"),
        ({"sm_count": 10**400}, "sm_count must be a positive int, got 1000"),
        ({"title": 3}, "GPU 'mine': title must be a string, got 3: put it in quotes"),
        ({"compute_capability": 9.0}, "compute_capability must be a string, got 9.0"),
        ({"compute_capability": "9"}, 'compute_capability must be a version such as "9.0"'),
        ({"device_kinds": []}, "device_kinds must be a list of one or more strings"),
        ({"device_kinds": [1]}, "device_kinds must be a list of one or more strings"),
        ({"device_kinds": ['My "GPU"']}, "without quotes and backslashes in them, got"),
        ({"name": "other"}, "remove its field name"),
        ({"sources": {"sm_count": "s"}}, "name the source of clock_hz"),
        ({"sources": gpu_by_name("h100").sources | {"colour": "s"}}, "of no field: colour"),
    ],
)
def test_mistakes_in_a_file_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_gpus(h100_toml(**changes))


def test_device_kinds_that_are_a_string_are_refused():
    with pytest.raises(ValueError, match="device_kinds must be a list of one or more strings"):
        parse_gpus(h100_toml().replace("device_kinds = [", "device_kinds = ").replace("']", "'"))


def test_reading_gpus_starts_no_jax():
    code = "import sys, moe_jax.hardware.gpus as h; h.known_gpus(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
