"""Calibrations: what is written is read again, a wrong field is named, ours are plausible."""

import dataclasses
from importlib import resources

import pytest

from moe_jax.errors import UserError
from moe_jax.hardware.calibration import (
    Calibration,
    CollectiveTime,
    Measurement,
    dump_calibration,
    load_calibration,
    parse_calibration,
    recorded,
    save_calibration,
)
from moe_jax.hardware.gpus import gpu_by_name

CALIBRATION = Calibration(
    gpu="h100",
    hardware="8 x NVIDIA H100 80GB HBM3",
    date="2026-11-23",
    versions={"jax": "0.11.2"},
    matmul_flops_per_s=7e14,
    attention_forward_flops_per_s=5e14,
    attention_backward_flops_per_s=4e14,
    gather_bytes_per_s=2e12,
    memory_bytes_per_s=3e12,
    collectives=(CollectiveTime("all-to-all", 8, 1, 2**26, 2e-4),),
    measurements=(
        Measurement("matmul", "expert up", 4.5e-3, 1e-5, 20, 3.36e12, "flop", "random data"),
    ),
)


def test_what_is_saved_is_read_again(tmp_path):
    save_calibration(CALIBRATION, tmp_path / "c.toml")
    assert load_calibration(tmp_path / "c.toml") == CALIBRATION


def test_measurements_and_collectives_may_be_left_out():
    bare = dataclasses.replace(CALIBRATION, collectives=(), measurements=())
    lines = dump_calibration(bare).splitlines()
    kept = [line for line in lines if not line.startswith(("collectives", "measurements"))]
    assert len(kept) == len(lines) - 2
    assert parse_calibration("\n".join(kept)) == bare


def test_grouped_matmuls_are_measured_or_not():
    measured = dataclasses.replace(CALIBRATION, grouped_flops_per_s=6.9e14)
    assert parse_calibration(dump_calibration(measured)) == measured
    assert "grouped_flops_per_s" not in dump_calibration(CALIBRATION)


def test_an_unquoted_date_is_the_same_date():
    text = dump_calibration(CALIBRATION).replace('"2026-11-23"', "2026-11-23")
    assert parse_calibration(text) == CALIBRATION


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("matmul_flops_per_s = 7", "matmul_flops = 7", "matmul_flops_per_s is missing"),
        ("matmul_flops_per_s = 7", "matmul_flops = 7", "matmul_flops is unknown: the fields are"),
        ("memory_bytes_per_s = 3", "memory_bytes_per_s = -3", r"memory_bytes_per_s = -3.*greater"),
        (
            "gather_bytes_per_s = 2000000000000.0",
            'gather_bytes_per_s = "fast"',
            "gather_bytes_per_",
        ),
        ("gather_bytes_per_s = 2000000000000.0", "gather_bytes_per_s = inf", "gather_bytes_per_s"),
        ("2026-11-23", "yesterday", r"date = 'yesterday'.*pattern"),
        ('kind = "all-to-all"', 'kind = "gossip"', r"collectives.0.kind = 'gossip'"),
        ("bytes = 67108864", "bytes = 1.5", r"collectives.0.bytes = 1.5"),
        ("repeats = 20", "repeats = 0", r"measurements.0.repeats = 0"),
        ('gpu = "h100"', "gpu = ", "not valid TOML"),
    ],
)
def test_a_wrong_field_is_named(old, new, message):
    text = dump_calibration(CALIBRATION)
    assert old in text
    with pytest.raises(ValueError, match=message) as caught:
        parse_calibration(text.replace(old, new), origin="mine.toml")
    assert "mine.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the calibration .*nowhere\.toml"):
        load_calibration(tmp_path / "nowhere.toml")


def test_a_rate_is_work_over_time():
    assert CALIBRATION.measurements[0].rate == pytest.approx(3.36e12 / 4.5e-3)


def test_a_gpu_nobody_measured_has_no_calibration():
    assert recorded("no-such-gpu") is None


def shipped():
    folder = resources.files("moe_jax.hardware").joinpath("calibrations")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def test_there_is_a_calibration_of_ours():
    assert "h100" in shipped()


@pytest.mark.parametrize("name", shipped())
def test_our_calibrations_are_of_the_gpu_they_are_named_after_and_below_its_peaks(name):
    gpu, found = gpu_by_name(name), recorded(name.upper())
    assert found is not None
    assert found.gpu == name
    assert gpu.device_kinds[0] in found.hardware
    for kind in ("matmul", "attention_forward", "attention_backward"):
        assert 0.25 < getattr(found, f"{kind}_flops_per_s") / gpu.peak_bf16_flops < 1
    for kind in ("gather", "memory"):
        assert 0.25 < getattr(found, f"{kind}_bytes_per_s") / gpu.memory_bandwidth < 1
    assert all(m.spread_s < m.seconds for m in found.measurements)


def test_what_ran_compute_only_says_so():
    """A step of 16 devices on the one that was there is no step time."""
    found = recorded("h100")
    assert found is not None
    mocked = [m for m in found.measurements if "16 devices" in m.name]
    assert mocked
    assert all("compute only" in m.note for m in mocked)


def test_values_nested_too_deeply_are_refused_with_the_files_name():
    with pytest.raises(UserError, match=r"mine\.toml is not valid TOML"):
        parse_calibration(f"date = {'[' * 20_000}", origin="mine.toml")
