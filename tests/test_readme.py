"""The README's code: its Python runs, its commands parse, its files exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from moe_jax.cli.main import _parser

ROOT = Path(__file__).parents[1]
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


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
