"""`moe-jax generate`: on a Hugging Face directory beside transformers, and on trained runs."""

import argparse
import io

import jax
import pytest
from support.hf.tiny_hf import their_greedy, write_mixtral
from support.training_cases import (
    ONE_DEVICE,
    run,
    session_on_first_devices,
    settings,
    small_config,
    steps_of,
)

from moe_jax.checkpoint import Checkpoints
from moe_jax.cli import generate
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.config import write_config
from moe_jax.data import make_loaders
from moe_jax.data.hf_tokenizer import HfTokenizer
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.training.loop import train
from moe_jax.training.resume import run_info
from moe_jax.training.state import init_state

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
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
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
    assert generate._sampling(parser.parse_args(flags)) == want


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


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on one device, of a few steps: its text is not one repeated byte."""
    root = tmp_path_factory.mktemp("trained")
    sizes = ("train.steps=10", "checkpoint.every=5", "model.init_std=0.3")
    train(session_on_first_devices(small_config(*ONE_DEVICE, *sizes)), root, "none")
    return root


def words(workdir, *options, prompt="def f("):
    return ("generate", workdir, "--prompt", prompt, "--max-tokens", "12", *options)


@pytest.fixture
def generate_on_8(moe_jax, workdir):
    mesh = settings(["mesh.expert=8", "exchange.transport=all_to_all"])
    return lambda *options, **prompt: moe_jax(*words(workdir, *mesh, *options, **prompt))


@pytest.mark.slow
def test_greedy_text_is_the_same_on_another_mesh(generate_on_8, workdir, tmp_path):
    code, text, _ = generate_on_8("--temperature", "0")
    assert code == exit_codes.OK
    assert text.startswith("def f(")
    assert len(set(text[len("def f(") :])) > 2
    alone = run([*map(str, words(workdir, "--temperature", "0"))], tmp_path)
    assert alone.returncode == exit_codes.OK, alone.stderr
    assert alone.stdout == text


@pytest.fixture
def staged(tmp_path):
    """A run saved, untrained, under an interleaved pipeline of 4 microbatches."""
    layout = (
        "mesh.pipe=2",
        "mesh.expert=2",
        "mesh.fsdp=2",
        "sharding.dense=fsdp_expert",
        "pipeline.microbatches=4",
        "pipeline.virtual_stages=2",
        "train.remat=full",
        "train.global_batch=32",
        "model.num_layers=5",
        "model.init_std=0.3",
    )
    session = session_on_first_devices(small_config(*layout))
    steps = steps_of(session)
    loader = make_loaders(session.config, session.batch_sharding()).train
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        state = init_state(steps.skeleton, steps.optimizer, session.mesh)
        checkpoints.save(1, state, run_info(session.config, loader))
    write_config(session.config, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_text_of_a_pipelined_run_is_the_same_on_other_meshes(moe_jax, staged):
    def on(*mesh):
        code, text, errors = moe_jax(
            *words(staged, "--temperature", "0", *settings(mesh), "--max-tokens", "6")
        )
        assert code == exit_codes.OK, errors
        return text

    as_trained = on()
    assert len(set(as_trained[len("def f(") :])) > 2
    assert on("mesh.pipe=1", "mesh.tensor=2") == as_trained
    assert on("mesh.pipe=4", "mesh.fsdp=1") == as_trained


@pytest.mark.slow
def test_seed_decides_the_text_of_several_samples(generate_on_8):
    several = ("--num-samples", "3", "--seed", "7")
    code, text, _ = generate_on_8(*several, prompt="import ")
    assert code == exit_codes.OK
    samples = text.split("--- sample ")[1:]
    assert [sample.partition("\n")[0] for sample in samples] == ["1", "2", "3"]
    bodies = [sample.partition("\n")[2] for sample in samples]
    assert all(body.startswith("import ") for body in bodies)
    assert len(set(bodies)) == 3
    assert generate_on_8(*several, prompt="import ")[1] == text


@pytest.mark.slow
def test_empty_prompt_begins_a_document(generate_on_8):
    code, text, _ = generate_on_8("--top-k", "5", "--step", "5", prompt="")
    assert code == exit_codes.OK
    assert text.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--step", "7"), "no good checkpoint of step 7"),
        (("--temperature", "-1"), "temperature (-1.0) must be from 0 (greedy)"),
        (("--max-tokens", "0"), "max_tokens (0) must be 1 or more"),
        (("--num-samples", "0"), "samples (0) must be 1 or more"),
        (("--set", "model.d_model=64"), "does not fit"),
    ],
)
def test_generate_names_a_mistake(generate_on_8, options, message):
    code, text, errors = generate_on_8(*options)
    assert (code, text) == (exit_codes.USER_ERROR, "")
    assert message in errors
