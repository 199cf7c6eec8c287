"""The READMEs' code: Python runs, commands parse, scripts reach what they start, files exist."""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import readmes
from support.fake_clone import FakeClone, container_commands
from support.places import ROOT
from support.readmes import blocks, commands
from support.tiny_models import save_tiny

from moe_jax.cli.main import _parser
from moe_jax.cli.shared import exit_codes

README = pytest.mark.parametrize(
    "readme", readmes.FILES, ids=lambda path: str(path.relative_to(ROOT))
)
#: Commands of other projects, which these tests believe.
OTHERS = ("ruff",)
#: Names that stand for others, and files that runs and models have.
NOT_HERE = {
    *("cli/VERB.py", "moe_jax/a/b/c.py", "tests/a/b/test_c.py"),
    *("config.toml", "checkpoints/"),
}


def parsed(words: list[str]) -> argparse.Namespace:
    """Return what the real parser makes of a `moe-jax` command; what it names exists."""
    assert words[0] == "moe-jax"
    args = _parser().parse_args(words[1:])
    config = getattr(args, "config", None)
    if isinstance(config, str) and config.startswith("configs/"):
        assert (ROOT / config).is_file()
    return args


def test_there_is_something_to_check():
    assert len(commands("moe-jax")) >= 20
    assert len(blocks("python")) >= 4
    assert len(readmes.FILES) >= 6


def test_every_command_is_checked_here():
    checked = {"moe-jax", "sbatch", "bash", "kubectl", "pip", ".venv/bin/python", *OTHERS}
    assert {words[0] for words in commands()} <= checked


@pytest.mark.parametrize("words", commands("moe-jax"), ids=" ".join)
def test_command_parses(words):
    assert parsed(words).verb == words[1]


@pytest.mark.parametrize("words", commands("sbatch", "bash"), ids=" ".join)
def test_script_reaches_what_it_starts(words, tmp_path):
    calls = FakeClone(tmp_path).calls(words)
    ours = [call for call in calls if call[0] == "moe-jax"]
    tests = [call for call in calls if call[:3] == ["python", "-m", "pytest"]]
    assert ours or tests
    for call in ours:
        assert parsed(call).verb == call[1]


def test_a_script_that_starts_no_verb_is_seen(tmp_path):
    words = ["sbatch", "--nodes=2", "launch/slurm.sbatch", "configs/paper_ep16.toml"]
    (call,) = FakeClone(tmp_path).calls(words)
    with pytest.raises(SystemExit):
        parsed(call)


@pytest.mark.parametrize("words", commands("kubectl"), ids=" ".join)
def test_kubectl_is_given_files_that_start_us(words):
    if words[1] == "apply":
        started = container_commands(ROOT / words[words.index("-f") + 1])
        assert [parsed(command).verb for command in started] == ["train"]
    else:
        assert words[1:3] == ["create", "configmap"]
        (source,) = [word.split("=")[1] for word in words if word.startswith("--from-env-file=")]
        lines = [line for line in (ROOT / source).read_text().splitlines() if line]
        assert all(line.startswith("#") or re.match(r"\w+=", line) for line in lines)


@pytest.mark.parametrize("words", commands("pip"), ids=" ".join)
def test_extra_exists(words):
    extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
    assert words[:-1] == ["pip", "install", "-e"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra
    assert extra[1] in project["optional-dependencies"]


@pytest.mark.parametrize("words", commands(".venv/bin/python"), ids=" ".join)
def test_script_of_the_tests_exists(words):
    assert (ROOT / words[1]).is_file()


@README
def test_links_lead_somewhere(readme):
    for link in readmes.links(readme):
        path, _, anchor = link.partition("#")
        target = (readme.parent / path).resolve() if path else readme
        assert target.exists(), link
        assert not anchor or anchor in readmes.anchors(target), link


@README
def test_files_exist(readme):
    roots = (ROOT, ROOT / "moe_jax", readme.parent)
    for path in readmes.paths(readme) - NOT_HERE:
        here = any((root / path).exists() for root in roots)
        # A name alone is told from its sentence.
        assert here or ("/" not in path and any((ROOT / "moe_jax").rglob(path))), path


@README
def test_lines_fit_a_screen(readme):
    long = [line for line in readmes.prose(readme).splitlines() if len(line) > 100]
    assert all(line.startswith("|") for line in long), long


def test_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 175


def test_exit_codes_are_those_of_the_command():
    rows = [line.split(None, 1) for line in exit_codes.TABLE.splitlines()[1:]]
    text = (ROOT / "launch" / "README.md").read_text()
    assert re.findall(r"^\| (\d+) \| (.*) \|$", text, flags=re.MULTILINE) == [
        tuple(r) for r in rows
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the configs, a text, and small models where the READMEs have some."""
    root = tmp_path_factory.mktemp("readme")
    (root / "configs").symlink_to(ROOT / "configs")
    (root / "notes.txt").write_text((ROOT / "README.md").read_text())
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
@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_block_runs(block, place):
    done = run(["-c", block.code], place)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_on_models_run_one_after_the_other(place):
    """All but the server, which does not end by itself; see tests/serve."""
    on_models = [
        words for words in commands("moe-jax") if {"models/", "runs/tuned"} & prefixes(words)
    ]
    assert len(on_models) >= 7
    for words in on_models:
        if words[1] == "serve":
            continue
        done = run(["-m", "moe_jax.cli.main", *words[1:]], place)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert (place / "models" / "tuned" / "config.json").exists()


def prefixes(words: list[str]) -> set[str]:
    return {"models/" for word in words if word.startswith("models/")} | set(words)
