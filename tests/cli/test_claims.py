"""`moe-jax claims`: where its config comes from, and what it writes. Checks are the planner's."""

import json

import pytest
from support.planner.hand_plans import CONFIGS, PAPER, paper_plans

from moe_jax.cli.main import main
from moe_jax.cli.shared import files
from moe_jax.config import load_config
from moe_jax.planner.claims import report as report_module
from moe_jax.planner.claims.report import programs, report


@pytest.fixture
def hand_made(monkeypatch):
    """Plans made by hand in place of minutes of compiling; yields the configs asked about."""
    asked = []

    def check(config, calibration):
        asked.append(config)
        return report(PAPER, programs(PAPER), paper_plans(), calibration)

    monkeypatch.setattr(report_module, "check_claims", check)
    return asked


def test_config_of_the_source_tree_is_the_default(hand_made, capsys):
    assert main(["claims", "--set", "exchange.streams=4"]) == 0
    (config,) = hand_made
    assert config.exchange.streams == 4
    assert config.name == load_config(CONFIGS / "paper_ep16.toml").name == "paper_ep16"
    assert "near-linear scaling" in capsys.readouterr().out


def test_findings_and_plans_are_written(hand_made, tmp_path):
    out = ["--json", str(tmp_path / "claims.json"), "--plans", str(tmp_path / "plans")]
    assert main(["claims", *out]) == 0
    written = json.loads((tmp_path / "claims.json").read_text())
    assert len(written["claims"]) == 8
    for name in written["plans"]:
        plan = json.loads((tmp_path / "plans" / f"{name}.json").read_text())
        assert plan["memory"]["kind"] == "compiled"


def test_unwritable_files_are_refused_before_anything_compiles(hand_made, tmp_path, capsys):
    assert main(["claims", "--json", str(tmp_path / "none" / "claims.json")]) == 2
    (tmp_path / "file").touch()
    assert main(["claims", "--plans", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert not hand_made


def test_installed_without_source_tree_the_config_must_be_given(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(files, "SOURCE_TREE", tmp_path)
    assert main(["claims"]) == 2
    assert "moe-jax claims path/to/configs/paper_ep16.toml" in capsys.readouterr().err
