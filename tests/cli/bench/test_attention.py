"""`moe-jax bench attention`: its run on a CPU, its exit code, and what it refuses."""

import dataclasses

import jax
import pytest

from moe_jax.bench.attention import cases, check
from moe_jax.cli.main import main

ON_CPU = pytest.mark.skipif(jax.default_backend() == "gpu", reason="what runs without a GPU")


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    monkeypatch.setattr(cases, "SMALL", [dataclasses.replace(cases.SMALL[1], length=32)])


@ON_CPU
def test_a_run_checks_and_times(capsys):
    assert main(["bench", "attention"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"cpu, JAX {jax.__version__}"
    assert lines[1].startswith("ok   xla   small, packed text")
    assert lines[2] == "1 of 1 checks passed"
    assert lines[3].startswith("small, packed text       xla        forward")
    assert len(lines) == 4


@ON_CPU
def test_a_failed_check_is_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(check, "BOUND", 0.0)
    assert main(["bench", "attention", "--no-times"]) == 1
    assert "0 of 1 checks passed" in capsys.readouterr().out


@ON_CPU
def test_cudnn_without_a_gpu_is_refused(capsys):
    assert main(["bench", "attention", "--implementations", "cudnn"]) == 2
    assert "needs an NVIDIA GPU and the device is a cpu" in capsys.readouterr().err
