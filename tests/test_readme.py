"""The README's code: its Python runs, its commands parse, its files exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT
from support.tiny_models import save_tiny

from moe_jax.cli.main import _parser

TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words and words[0] == "moe-jax"]


def test_there_is_something_to_check():
    assert len(commands()) >= 5
    assert len(blocks("python")) >= 1


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_parses(words):
    assert _parser().parse_args(words[1:]).verb == words[1]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|launch)/[\w.-]+", TEXT))))
def test_file_exists(path):
    assert (ROOT / path.rstrip(".")).exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the configs, a text, and small models where the README has some."""
    root = tmp_path_factory.mktemp("readme")
    (root / "configs").symlink_to(ROOT / "configs")
    (root / "notes.txt").write_text(TEXT)
    save_tiny(root / "models" / "olmoe", "olmoe")
    save_tiny(root / "models" / "qwen3", "qwen3")
    return root


def run(words: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    # Compiled as a reader's are, not as quickly as other tests'.
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env=own | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code, place):
    done = run(["-c", code], place)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_on_models_run_one_after_the_other(place):
    """All but the server, which does not end by itself; see tests/serve."""
    on_models = [words for words in commands() if {"models/", "runs/tuned"} & prefixes(words)]
    assert len(on_models) >= 7
    for words in on_models:
        if words[1] == "serve":
            continue
        done = run(["-m", "moe_jax.cli.main", *words[1:]], place)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert (place / "models" / "tuned" / "config.json").exists()


def prefixes(words: list[str]) -> set[str]:
    return {"models/" for word in words if word.startswith("models/")} | set(words)
