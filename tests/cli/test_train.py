"""`moe-jax train`: what it refuses, and the line that ends a run. Training is tests/training's."""

from pathlib import Path

import jax
import pytest
from support.training_cases import train_arguments

from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.train import summary
from moe_jax.config import Config
from moe_jax.training.loop import Outcome


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


def test_train_refuses_a_file_for_its_directory_and_keeps_it(moe_jax, tmp_path):
    precious = tmp_path / "notes"
    precious.write_text("mine")
    code, _, errors = moe_jax(*train_arguments(precious))
    assert code == exit_codes.USER_ERROR
    assert f"workdir {precious} is a file" in errors
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (
            Outcome(20, 1.5, 1.25, False, Config()),
            "stopped after step 20, loss 1.5000, validation loss 1.2500",
        ),
        (Outcome(0, None, None, False, Config()), "stopped after step 0"),
        (
            Outcome(7, 2.0, None, True, Config()),
            "stopped after step 7, loss 2.0000, asked to end: the same command resumes",
        ),
    ],
)
def test_last_line_says_how_a_run_ended(outcome, line):
    assert summary(outcome, Path("runs/a")) == f"{line}; see runs/a"
