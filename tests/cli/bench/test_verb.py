"""`moe-jax bench`: what it prints and writes, and what it refuses before it measures anything."""

import jax
import pytest
from support.places import ROOT
from support.training_cases import SMALL

from moe_jax.bench.operations import collectives
from moe_jax.cli.main import main
from moe_jax.hardware.calibration import load_calibration

QUICKSTART = str(ROOT / "configs" / "quickstart.toml")


def settings(*overrides):
    return [word for o in (*SMALL, *overrides) for word in ("--set", o)]


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
