"""`moe-jax upcycle`: from its options to `Upcycling`, and what it says of the result."""

import argparse

import pytest
from support.training_cases import small_config

from moe_jax.cli import upcycle as verb
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.interop import dense_model, upcycle


@pytest.fixture
def upcycled(monkeypatch):
    """Upcycles nothing; gives what was asked for."""
    asked = {}

    def open_dense(path, step, dtype):
        asked.update(path=path, step=step, dtype=dtype)
        return "dense"

    def make(dense, out, how, overrides, report):
        asked.update(out=out, how=how, overrides=overrides)
        return small_config()

    monkeypatch.setattr(dense_model, "open_dense", open_dense)
    monkeypatch.setattr(upcycle, "upcycle", make)
    return asked


def test_options_become_the_way_to_upcycle(upcycled, tmp_path, capsys):
    options = ["--experts", "4", "--granularity", "2", "--every", "2", "--noise", "0.5"]
    options += ["--seed", "7", "--step", "3", "--dtype", "float32", "--set", "train.steps=9"]
    assert main(["upcycle", "dense", str(tmp_path / "out"), *options]) == exit_codes.OK
    assert upcycled["how"] == upcycle.Upcycling(
        copies=4, top_k=4, granularity=2, every=2, noise=0.5, seed=7
    )
    assert (upcycled["step"], upcycled["dtype"]) == (3, "float32")
    assert upcycled["overrides"] == ["train.steps=9"]
    assert "at first it does not compute what dense does" in capsys.readouterr().out


def test_result_is_told_with_its_sizes(upcycled, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["upcycle", "dense", str(out)]) == exit_codes.OK
    text = capsys.readouterr().out
    assert f"{out}: 8 experts of 64 in each of 2 layers, 2 per token" in text
    assert "at first it computes what dense does" in text


def test_top_k_is_two_copies_unless_given():
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert parser.parse_args(["a", "b"]).top_k is None
    assert parser.parse_args(["a", "b", "--top-k", "3"]).top_k == 3


def test_a_dense_model_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["upcycle", str(tmp_path / "none"), str(tmp_path / "out")]) == exit_codes.USER_ERROR
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
