"""`moe-jax plan --search`: options that belong together, what is printed and what is written."""

import re
from types import SimpleNamespace

import pytest
from support.places import CONFIGS

from moe_jax.cli.main import main
from moe_jax.config import check, load_config
from moe_jax.planner.search import finals

SMALL = (
    str(CONFIGS / "paper_ep16.toml"),
    "--set",
    "model.moe.num_experts=8",
    "--set",
    "train.global_batch=64",
    "--mode",
    "train",
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "2"], "only --search reads --top: add --search"),
        (["--out", "best.toml"], "only --search reads --out"),
        (["--search", "--json", "out.json"], "--search does not read --json"),
        (["--search", "--require-hidden", "0.9"], "does not read --require-hidden"),
        (["--search", "--out", "nowhere/best.toml"], "cannot write nowhere/best.toml"),
    ],
)
def test_options_that_nobody_would_read_are_refused(options, message, capsys):
    assert main(["plan", *SMALL, *options]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_cluster_need_not_have_as_many_devices_as_the_configs_mesh(
    tmp_path, monkeypatch, capsys
):
    compiling = finals.compile_finalists

    def compile_finalists(found, count, calibration):
        memory = SimpleNamespace(peak_bytes=60 * 2**30, capacity_bytes=79 * 2**30)
        predicted = SimpleNamespace(step_s=7.0, tokens_per_s=90_000.0)
        plans = [SimpleNamespace(memory=memory, predicted=predicted)] * count
        return compiling(found, count, plan_all=lambda _, calibration: plans)

    monkeypatch.setattr(finals, "compile_finalists", compile_finalists)
    out = tmp_path / "best.toml"
    options = ["--hosts", "1", "--search", "--top", "2", "--out", str(out)]
    assert main(["plan", *SMALL, *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1 │ \w+=8,", printed)
    assert "60.0 GiB" in printed
    check(load_config(out), 8)
