"""Shared options: overrides add up, configs are checked, job flags arrive."""

import argparse
import re
from pathlib import Path

import pytest
from support.places import CONFIGS

from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.options import (
    add_config_arguments,
    add_job_arguments,
    job_flags,
    load,
    refuse_hub_name,
)
from moe_jax.config import ConfigError
from moe_jax.mesh.distributed import JobFlags

QUICKSTART = str(CONFIGS / "quickstart.toml")


def parse(*argv, required=True):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser, required=required)
    add_job_arguments(parser)
    return parser.parse_args(argv)


def test_overrides_are_applied_in_order():
    argv = ("--set", "model.moe.top_k=3", "--set", "seed=5", "--set", "seed=6")
    config = load(parse(QUICKSTART, *argv))
    assert (config.name, config.model.moe.top_k, config.seed) == ("quickstart", 3, 6)


def test_no_overrides_leak_into_the_next_command():
    parse(QUICKSTART, "--set", "seed=5")
    assert parse(QUICKSTART).overrides == []


def test_values_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match=r"num_experts \(9\) must be a multiple"):
        load(parse(QUICKSTART, "--set", "model.moe.num_experts=9"))


def test_config_is_required_unless_the_verb_can_do_without(capsys):
    with pytest.raises(SystemExit):
        parse()
    assert "CONFIG" in capsys.readouterr().err
    assert parse(required=False).config is None


def test_job_flags():
    args = parse(QUICKSTART, "--coordinator", "h:1", "--num-processes", "2", "--process-id", "1")
    assert job_flags(args) == JobFlags("h:1", 2, 1)
    assert job_flags(parse(QUICKSTART)) == JobFlags()


def test_a_name_of_the_hub_is_told_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch = "`hf download owner/a-1.0 --local-dir models/a-1.0` and give models/a-1.0"
    with pytest.raises(ValueError, match=re.escape(fetch)):
        refuse_hub_name(Path("owner/a-1.0"))
    for local in ("a", "../owner/a", "owner/a/b", "/owner/a"):
        refuse_hub_name(Path(local))
    (tmp_path / "owner").mkdir()
    refuse_hub_name(Path("owner/a-1.0"))


@pytest.mark.parametrize("verb", ["generate", "serve", "eval", "convert"])
def test_verbs_that_take_a_model_know_names_of_the_hub(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = {
        "generate": ["--prompt=a"],
        "serve": ["--port=0"],
        "eval": ["--data=d.txt"],
        "convert": ["out"],
    }[verb]
    (tmp_path / "d.txt").write_text("text")
    way = ["from-hf"] if verb == "convert" else []
    assert main([verb, *way, "owner/name", *more]) == exit_codes.USER_ERROR
    assert "hf download owner/name --local-dir models/name" in capsys.readouterr().err
