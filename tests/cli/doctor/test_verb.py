"""What `doctor` prints and returns: without a config, with a good one, with one for elsewhere."""

import argparse
import subprocess
import sys

import pytest
from support.places import ROOT

from moe_jax.cli.doctor import verb as doctor
from moe_jax.config import ConfigError, load_config, override, parse_config
from moe_jax.errors import UserError
from moe_jax.model.flops import total_parameters

QUICKSTART = str(ROOT / "configs" / "quickstart.toml")


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `doctor ARGV`; returns its exit code and output."""
    for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"MOE_JAX_{name}", raising=False)

    def call(*argv):
        parser = argparse.ArgumentParser()
        doctor.add_arguments(parser)
        args = parser.parse_args(argv)
        return args.run(args), capsys.readouterr().out

    return call


def test_without_a_config_it_reports_what_is_here(run):
    code, text = run()
    assert code == 0
    for part in ("jaxlib", "orbax-checkpoint", "8 x cpu", "no job found", "unknown"):
        assert part in text
    assert "Runs here" not in text


def test_good_config_is_sized_and_runs_here(run):
    code, text = run(QUICKSTART, "--set", "exchange.transport=auto")
    assert code == 0
    parameters = f"{total_parameters(load_config(QUICKSTART)):,}"
    for part in ("expert 8: 8 devices", "4,096 tokens per step", parameters, "w_up_edf"):
        assert part in text
    assert "experts / 8 (expert)" in text
    assert "Runs here: yes, on 8 cpu devices, emulated (exchange " in text


def test_config_for_another_machine_says_why_not_and_is_sized_all_the_same(run):
    code, text = run(str(ROOT / "configs" / "paper_ep16_x8.toml"))
    assert code == 2
    assert "data 8 x expert 16: 128 devices" in text
    assert "Runs here: no. JAX has already started with 8 cpu devices; this mesh needs 128" in text


def test_broken_config_is_refused_like_train_does(run):
    with pytest.raises(ConfigError, match="num_experts"):
        run(QUICKSTART, "--set", "model.moe.num_experts=9")


@pytest.mark.parametrize("option", [("--set", "seed=1"), ("--resolved",)])
def test_options_about_a_config_are_refused_without_one(run, option):
    with pytest.raises(UserError, match=f"{option[0]} is about a config: give the CONFIG too"):
        run(*option)


def test_resolved_is_the_whole_config_and_nothing_else(run):
    code, text = run(QUICKSTART, "--resolved", "--set", "model.moe.top_k=1")
    assert code == 0
    assert parse_config(text) == override(load_config(QUICKSTART), ["model.moe.top_k=1"])
    assert "[model.attention.latent]" in text, "defaults are there too"


def test_resolving_starts_no_jax():
    code = (
        "import sys; from moe_jax.cli.main import main; "
        f"assert main(['doctor', {QUICKSTART!r}, '--resolved']) == 0; "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
