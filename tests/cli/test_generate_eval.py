"""`generate` and `eval` on a Hugging Face directory; on runs they are tested in test_main.py."""

import argparse
import io
import json

import jax
import pytest
from support.hf.tiny_hf import their_greedy, write_mixtral

from moe_jax.cli import generate
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.data.hf_tokenizer import HfTokenizer
from moe_jax.inference.sampling_options import SamplingOptions

pytest.importorskip("transformers")
GREEDY = ("--temperature", "0", "--max-tokens", "12")


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


@pytest.fixture(scope="module")
def tokenizer(mixtral):
    return HfTokenizer(mixtral[0] / "tokenizer.json")


def greedy(mixtral, tokenizer, tokens):
    return tokenizer.decode(their_greedy(mixtral[1], tokens, 12))


@pytest.mark.slow
def test_a_prompt_is_continued_as_transformers_does(moe_jax, mixtral, tokenizer, tmp_path):
    want = greedy(mixtral, tokenizer, tokenizer.encode_prompt("def add"))
    (tmp_path / "prompt.txt").write_text("def add")
    code, text, _ = moe_jax(
        "generate", mixtral[0], "--prompt-file", tmp_path / "prompt.txt", *GREEDY
    )
    assert (code, text) == (exit_codes.OK, f"def add{want}\n")


@pytest.mark.slow
def test_a_chat_is_answered_from_stdin_and_only_the_answer_shows(
    moe_jax, mixtral, tokenizer, monkeypatch
):
    messages = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    want = greedy(mixtral, tokenizer, tokenizer.encode_chat(messages))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi"))
    chat = ("--prompt-file", "-", "--chat", "--system", "Be kind")
    code, text, errors = moe_jax("generate", mixtral[0], *chat, *GREEDY, "--set", "mesh.expert=4")
    assert (code, text) == (exit_codes.OK, f"{want}\n"), errors


@pytest.mark.slow
def test_stop_strings_and_penalties_reach_the_model(moe_jax, mixtral, tokenizer):
    want = greedy(mixtral, tokenizer, tokenizer.encode_prompt("Write"))
    stop = want[3:5]
    options = ("--stop", "\x00", "--stop", stop, "--context", "64", "--slots", "8")
    code, text, _ = moe_jax("generate", mixtral[0], "--prompt", "Write", *GREEDY, *options)
    assert (code, text) == (exit_codes.OK, f"Write{want[: want.index(stop)]}\n")


def test_every_flag_of_sampling_is_read():
    subparsers = argparse.ArgumentParser().add_subparsers()
    generate.add_parser(subparsers)
    want = SamplingOptions(
        temperature=0.5,
        top_k=4,
        top_p=0.75,
        min_p=0.25,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=2.0,
        seed=9,
    )
    flags = ["model", "--prompt", "a"]
    for name, value in vars(want).items():
        if name not in ("logit_bias", "top_logprobs"):
            flags += [f"--{name.replace('_', '-')}", str(value)]
    assert generate._sampling(subparsers.choices["generate"].parse_args(flags)) == want


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "a", "--system", "b"), "--system is part of a chat: add --chat"),
        (("--prompt-file", "nowhere.txt"), "--prompt-file nowhere.txt cannot be read"),
        (("--prompt", "a", "--min-p", "2"), "min_p (2.0) must be"),
        (("--prompt", "a", "--repetition-penalty", "0"), "repetition_penalty (0.0) must be"),
        (("--prompt", "a", "--presence-penalty", "-3"), "presence_penalty (-3.0) must be from -2"),
        (("--prompt", "a", "--frequency-penalty", "3"), "frequency_penalty (3.0) must be from -2"),
        (("--prompt", "a", "--num-samples", "0"), "num_samples (0) must be"),
        (("--prompt", "a", "--step", "1"), "has no step 1"),
    ],
)
def test_mistakes_are_named_before_anything_compiles(moe_jax, mixtral, options, message):
    code, text, errors = moe_jax("generate", mixtral[0], *options)
    assert (code, text) == (exit_codes.USER_ERROR, "")
    assert message in errors


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
