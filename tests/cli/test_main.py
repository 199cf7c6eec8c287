"""The command as a user meets it: help, exit codes and messages; generation from a trained run.

What `doctor` prints is in `test_doctor.py`; training itself is tested in tests/train.
"""

import logging

import jax
import pytest
from support.training_cases import (
    ONE_DEVICE,
    QUICKSTART,
    run,
    session_on_first_devices,
    settings,
    small_config,
    steps_of,
    train_arguments,
)

from moe_jax.checkpoint import Checkpoints
from moe_jax.cli import main as main_module
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.config import write_config
from moe_jax.data import make_loaders
from moe_jax.training.loop import train
from moe_jax.training.resume import run_info
from moe_jax.training.state import init_state

VERBS = ("train", "generate", "eval", "serve", "upcycle", "inspect", "doctor")


@pytest.fixture
def moe_jax(capsys):
    """Runs `moe-jax ARGUMENTS` in this process, whose 8 devices have started already."""

    assert jax.device_count() == 8

    def call(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_every_option(moe_jax, verb):
    code, text, _ = moe_jax(verb, "--help")
    assert code == exit_codes.OK
    assert f"usage: moe-jax {verb}" in text
    options = [line for line in text.splitlines() if line.startswith("  -")]
    assert len(options) >= 4
    # An option without help is a line of its own that nothing follows.
    bare = [o for o in options if "  " not in o.strip() and text.count(o + "\n  -")]
    assert bare == []


def test_the_log_has_our_format_whoever_gave_it_a_handler_before(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler()])
    level = root.level
    try:
        main_module._start_logging()
        (handler,) = root.handlers
        record = logging.LogRecord("moe_jax.x", logging.WARNING, "", 0, "said", None, None)
        assert handler.format(record) == "WARNING moe_jax.x: said"
    finally:
        root.setLevel(level)


def test_help_lists_verbs_and_exit_codes(moe_jax):
    code, text, _ = moe_jax("--help")
    assert code == exit_codes.OK
    for verb in VERBS:
        assert f"\n    {verb} " in text
    codes = {v for k, v in vars(exit_codes).items() if k.isupper() and isinstance(v, int)}
    table = text.partition("exit codes:")[2].splitlines()
    assert {int(line.split()[0]) for line in table if line.strip()} == codes


@pytest.mark.parametrize(
    "arguments", [(), ("fly",), ("train",), ("generate", "run"), ("train", "a", "b")]
)
def test_wrong_command_line_shows_usage(moe_jax, arguments):
    code, _, errors = moe_jax(*arguments)
    assert code == exit_codes.USER_ERROR
    assert "usage: moe-jax" in errors


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.moe.topk=1",
            "unknown key model.moe.topk: the nearest known key is model.moe.top_k",
        ),
        ("top_k=1", "unknown key top_k: the nearest known key is model.moe.top_k"),
        ("train.steps=many", 'train.steps = "many": must be a valid integer'),
        ("train.steps", "expected KEY=VALUE"),
        ("mesh.tensor=3", "model.attention.heads (2) must be a multiple of mesh.tensor (3)"),
        ("pipeline.microbatches=2", "are read with mesh.pipe > 1 only"),
        ("mesh.expert=3", "num_experts (8) must be a multiple of mesh.expert (3)"),
        ("model.moe.router.selection=expert_choice", "trained on its own future"),
        ("train.global_batch=12", "train.global_batch (12) must be a multiple of 16"),
        ("mesh.data=2", "already started with 8 cpu devices; this mesh needs 16"),
        ("runtime.platform=gpu", "this mesh needs 8 on platform gpu"),
        ("runtime.cluster=h100-8x2", "has 16 devices (2 hosts x 8) and the job has 8"),
        ("data.tokenizer=no.json", "no.json"),
    ],
)
def test_mistake_in_the_config_is_named_and_leaves_nothing_behind(
    moe_jax, tmp_path, override, message
):
    workdir = tmp_path / "run"
    arguments = train_arguments(
        workdir, *(("train.global_batch=32",) if "data=2" in override else ()), override
    )
    code, _, errors = moe_jax(*arguments)
    assert code == exit_codes.USER_ERROR
    assert errors.count("moe-jax train: ") == 1
    assert message in errors
    assert "Traceback" not in errors
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "missing.toml"), "cannot read the configuration missing.toml"),
        (("doctor", "missing.toml"), "cannot read the configuration missing.toml"),
        (
            ("generate", "missing", "--prompt", "x"),
            "missing is not a directory: give the --workdir",
        ),
        (("train", QUICKSTART, "--num-processes", "2"), "--coordinator"),
    ],
)
def test_mistake_in_the_arguments_is_named(moe_jax, arguments, message):
    code, _, errors = moe_jax(*arguments)
    assert code == exit_codes.USER_ERROR
    assert message in errors


def test_generate_wants_the_directory_of_a_run(moe_jax, tmp_path):
    code, _, errors = moe_jax("generate", tmp_path, "--prompt", "x")
    assert code == exit_codes.USER_ERROR
    assert f"{tmp_path / 'config.toml'} is missing" in errors


def test_train_refuses_a_file_for_its_directory_and_keeps_it(moe_jax, tmp_path):
    precious = tmp_path / "notes"
    precious.write_text("mine")
    code, _, errors = moe_jax(*train_arguments(precious))
    assert code == exit_codes.USER_ERROR
    assert f"--workdir {precious} is a file" in errors
    assert precious.read_text() == "mine"


def test_traceback_is_there_for_those_who_ask(moe_jax):
    with pytest.raises(ValueError, match=r"missing\.toml"):
        moe_jax("--traceback", "train", "missing.toml")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on one device, of a few steps: its text is not one repeated byte."""
    root = tmp_path_factory.mktemp("trained")
    sizes = ("train.steps=10", "checkpoint.every=5", "model.init_std=0.3")
    train(session_on_first_devices(small_config(*ONE_DEVICE, *sizes)), root, "none")
    return root


def generate(workdir, *options, prompt="def f("):
    return ("generate", workdir, "--prompt", prompt, "--max-tokens", "12", *options)


@pytest.fixture
def generate_on_8(moe_jax, workdir):
    mesh = settings(["mesh.expert=8", "exchange.transport=all_to_all"])
    return lambda *options, **prompt: moe_jax(*generate(workdir, *mesh, *options, **prompt))


@pytest.mark.slow
def test_greedy_text_is_the_same_on_another_mesh(generate_on_8, workdir, tmp_path):
    code, text, _ = generate_on_8("--temperature", "0")
    assert code == exit_codes.OK
    assert text.startswith("def f(")
    assert len(set(text[len("def f(") :])) > 2
    alone = run([*map(str, generate(workdir, "--temperature", "0"))], tmp_path)
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
            *generate(staged, "--temperature", "0", *settings(mesh), "--max-tokens", "6")
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
