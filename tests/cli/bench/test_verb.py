"""`moe-jax bench`: what it prints and writes, and what it refuses before it measures anything."""

import dataclasses

import jax
import pytest
from support.places import ROOT
from support.training_cases import SMALL

from moe_jax.bench import collectives
from moe_jax.cli.bench.tables import collective_table, measurement_table, wire_bytes
from moe_jax.cli.main import main
from moe_jax.hardware.calibration import CollectiveTime, Measurement, load_calibration
from moe_jax.hardware.gpus import gpu_by_name

QUICKSTART = str(ROOT / "configs" / "quickstart.toml")


def settings(*overrides):
    return [word for o in (*SMALL, *overrides) for word in ("--set", o)]


def cells(table):
    return [list(column.cells) for column in table.columns]


@pytest.mark.slow
def test_calibrate_prints_and_writes_what_it_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(collectives, "_CALLS", 1)
    out = tmp_path / "mine.toml"
    argv = ["bench", "calibrate", QUICKSTART, *settings(), "--devices", "8", "--repeats", "2"]
    assert main([*argv, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    found = load_calibration(out)
    assert found.collectives[0].devices == 8
    for measurement in found.measurements:
        assert measurement.name in text
    for part in ("emulated devices share cores", "unknown", "all-to-all", str(out)):
        assert part in text


@pytest.mark.slow
def test_step_prints_one_program(capsys):
    tiny = settings("model.num_layers=1", "mesh.expert=8")
    argv = ["bench", "step", QUICKSTART, *tiny, "--mode", "forward", "--repeats", "2"]
    assert main(argv) == 0
    assert "quickstart forward, 1 layers, 8 devices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["calibrate", "--set", "model.d_model=8"], "--set changes a config: give the CONFIG too"),
        (["calibrate", "--out", "/no/such/place/c.toml"], "/no/such/place is no directory"),
        (["calibrate", "--devices", "3"], "JAX has already started with 8 cpu devices"),
        (["step", QUICKSTART, "--mock"], "--mock needs exactly 1 GPU in this process"),
        (["step", "nowhere.toml"], "cannot read the configuration nowhere.toml"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(argv, message, capsys):
    assert jax.device_count() == 8, "JAX must have started, or 3 devices would be granted"
    assert main(["bench", *argv]) == 2
    assert message in capsys.readouterr().err


MATMUL = Measurement("matmul", "expert up", 4e-3, 4e-5, 9, 2e12, "flop")


def test_a_measurement_stands_beside_the_peak_of_what_it_uses():
    gather = dataclasses.replace(MATMUL, suite="gather", unit="byte", work=4e9)
    table = cells(measurement_table([MATMUL, gather], gpu_by_name("h100")))
    assert table[1:6] == [
        ["4", "4"],
        ["1.0%", "1.0%"],
        ["500 TFLOP/s", "1000 GB/s"],
        ["989.4 TFLOP/s", "3352 GB/s"],
        ["50.5%", "29.8%"],
    ]


def test_an_unknown_chip_has_an_unknown_bound():
    assert cells(measurement_table([MATMUL], None))[4:6] == [["unknown"], [""]]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-to-all", 7), ("all-gather", 56), ("all-reduce", 14), ("reduce-scatter", 7)],
)
def test_a_collective_stands_beside_the_link(kind, sent):
    """Bytes that one of 8 devices must send, of an operand of 8."""
    time = CollectiveTime(kind, 8, 1, 8, 1e-9)
    assert wire_bytes(time) == pytest.approx(sent)
    table = cells(collective_table([time], 450e9))
    assert table[3:] == [[f"{sent} GB/s"], ["450 GB/s"]]
