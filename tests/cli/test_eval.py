"""`moe-jax eval`: what it prints, writes and refuses; the figures are tests/inference's."""

import json

import jax
import pytest
from support.hf.tiny_hf import write_mixtral

from moe_jax.cli import eval as verb
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.inference.evaluate import Evaluation

pytest.importorskip("transformers")


@pytest.fixture
def moe_jax(capsys):
    """Runs `moe-jax ARGUMENTS` in this process, whose 8 devices have started already."""

    assert jax.device_count() == 8

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "mixtral"
    return path, write_mixtral(path)


def test_figures_are_shown_with_their_windows(capsys):
    evaluation = Evaluation(texts=2, tokens=4, bytes=16, nll=8.0)
    verb.print_result(evaluation, context=16, stride=8, seconds=2.0)
    text = capsys.readouterr().out
    assert "windows of 16 tokens, 8 apart" in text
    values = [line.split()[-1] for line in text.splitlines() if line.strip()]
    assert values[-6:] == [f"{evaluation.perplexity:.4f}", "2.0000", "0.7213", "4", "2", "2"]


def test_json_has_the_sums_and_what_follows_from_them():
    evaluation = Evaluation(texts=2, tokens=4, bytes=16, nll=8.0)
    values = verb.as_json(evaluation, context=16, stride=8)
    assert {"tokens": 4, "bytes": 16, "context": 16, "stride": 8}.items() <= values.items()
    assert values["nats_per_token"] == 2.0


def test_a_file_that_cannot_be_written_is_refused_first(moe_jax, tmp_path):
    data, out = tmp_path / "data.txt", tmp_path / "none" / "out.json"
    data.write_text("text")
    code, _, errors = moe_jax("eval", tmp_path / "no-model", "--data", data, "--json", out)
    assert code == exit_codes.USER_ERROR
    assert f"cannot write {out}" in errors


@pytest.mark.slow
def test_eval_prints_and_writes_its_figures(moe_jax, mixtral, tmp_path):
    rows = [{"body": "Write a function. " * 5}, {"body": "numbers"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("--data", tmp_path / "data.jsonl", "--text-field", "body", "--context", "16")
    code, text, _ = moe_jax("eval", mixtral[0], *data, "--json", tmp_path / "out.json")
    assert code == exit_codes.OK
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["texts"], found["context"], found["stride"]) == (2, 16, 8)
    assert found["bytes"] == 18 * 5 + 7
    for key, shown in (("perplexity", "perplexity per token"), ("bits_per_byte", "bits per byte")):
        assert f"{shown}" in text
        assert f"{found[key]:.4f}" in text


def test_eval_names_what_it_cannot_read(moe_jax, mixtral, tmp_path):
    code, _, errors = moe_jax("eval", mixtral[0], "--data", tmp_path / "none.txt")
    assert code == exit_codes.USER_ERROR
    assert "--data: " in errors
    assert "does not exist" in errors
