"""`moe-jax bench decode`: its options, and the model that a config stands for.

Figures and the whole command are in tests/bench/decode/test_ways.py.
"""

import argparse
from types import SimpleNamespace

import pytest
from support.places import CONFIGS

from moe_jax.bench.decode import fresh_model
from moe_jax.bench.decode import ways as measuring
from moe_jax.bench.decode.times import DecodeTime
from moe_jax.cli.bench import decode, tables
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes


def parse(*words):
    parser = argparse.ArgumentParser()
    decode.add_decode(parser.add_subparsers())
    return parser.parse_args(["decode", *words])


def test_several_batch_sizes_may_be_given():
    assert parse("model").batch == [1, 8, 32]
    assert parse("model", "--batch", "2", "4").batch == [2, 4]
    assert parse("model").run is decode.run_decode


def test_a_config_stands_for_random_weights_in_the_dtype_asked_for(monkeypatch):
    monkeypatch.setattr(fresh_model, "fresh_model", lambda config: config)
    path = str(CONFIGS / "olmoe_1b_7b.toml")
    config = decode._model(parse(path, "--dtype", "float32", "--set", "precision.compute=bfloat16"))
    assert (config.precision.params, config.precision.compute) == ("float32", "bfloat16")


def test_results_are_shown_as_they_come_and_reasons_at_the_end(monkeypatch, capsys, tmp_path):
    time = DecodeTime("cache", 2, 0.1, 0.01, 0.5)
    result = SimpleNamespace(skipped={"transformers": "not here"}, to_json=lambda: {"a": 1})

    def measure_decode(model, path, batches, work, report):
        assert (model, batches, work.steps) == ("a model", [2], 4)
        report(time)
        return result

    monkeypatch.setattr(decode, "_model", lambda args: "a model")
    monkeypatch.setattr(measuring, "measure_decode", measure_decode)
    monkeypatch.setattr(tables, "decode_table", lambda result: "the table")
    out = tmp_path / "out.json"
    words = ["bench", "decode", "m", "--batch", "2", "--steps", "4", "--json", str(out)]
    assert main(words) == exit_codes.OK
    assert capsys.readouterr().out.splitlines() == [
        "  batch 2, cache: 20 tokens/s",
        "the table",
        "transformers skipped: not here",
    ]
    assert out.read_text() == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize("options", [["--prompt-tokens", "0"], ["--steps", "-1"]])
def test_numbers_below_one_are_refused(options, capsys):
    assert main(["bench", "decode", "m", *options]) == exit_codes.USER_ERROR
    assert "must be 1 or more" in capsys.readouterr().err
