"""The command as a user meets it: help, exit codes and messages. Each verb has its own file."""

import errno
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import pytest
from support.training_cases import QUICKSTART

from moe_jax.cli import main as main_module
from moe_jax.cli.doctor import verb
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes

VERBS = tuple(main_module.VERBS)


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


@pytest.mark.parametrize("verb", sorted({*VERBS} - {"convert", "bench"}))
def test_help_of_a_verb_explains_every_option(moe_jax, verb):
    code, text, _ = moe_jax(verb, "--help")
    assert code == exit_codes.OK
    assert f"usage: moe-jax {verb}" in text
    assert len(" ".join(text.split())) > 300, "a description, not only options"
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
    assert all(f"\n    {verb} " in text for verb in VERBS)
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


def test_traceback_is_there_for_those_who_ask(moe_jax):
    with pytest.raises(ValueError, match=r"missing\.toml"):
        moe_jax("--traceback", "train", "missing.toml")


@pytest.mark.parametrize("way", ["-m moe_jax", "-m moe_jax.cli.main"])
@pytest.mark.parametrize("words", ["--help", "plan --help", "train --help", "inspect --help"])
def test_help_needs_no_jax(way, words):
    """What help imports is what it costs; timing it would measure the machine."""
    command = [sys.executable, "-X", "importtime", *way.split(), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage: moe-jax" in done.stdout
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in modules
    assert not modules & {"jax", "jaxlib", "flax", "orbax", "scipy"}
    if words == "--help":
        assert not modules & {"numpy", "pydantic", "rich", "moe_jax.config"}


@pytest.fixture
def raising(monkeypatch):
    """Makes `moe-jax doctor` raise an error."""

    def install(error):
        def run(args):
            raise error

        monkeypatch.setattr(verb, "run", run)

    return install


def test_a_defect_shows_its_trace_and_what_to_report(moe_jax, raising):
    raising(ValueError("not enough values to unpack"))
    code, _, errors = moe_jax("doctor")
    assert code == exit_codes.DEFECT
    assert "Traceback (most recent call last)" in errors
    last = errors.splitlines()[-1]
    assert last.startswith("moe-jax doctor: this is a defect of moe-jax")
    assert f"jax {jax.__version__}" in last


def test_traceback_lets_every_error_through(moe_jax, raising):
    raising(OSError(errno.ENOENT, "No such file or directory", "mine.txt"))
    with pytest.raises(FileNotFoundError):
        moe_jax("--traceback", "doctor")
    assert moe_jax("doctor")[0] == exit_codes.USER_ERROR


def test_interrupted_from_the_keyboard(moe_jax, raising):
    raising(KeyboardInterrupt())
    code, _, errors = moe_jax("doctor")
    assert (code, errors) == (exit_codes.INTERRUPTED, "moe-jax doctor: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_output_that_finds_no_room_is_told_like_everything_else():
    words = [sys.executable, "-m", "moe_jax", "doctor", str(QUICKSTART), "--resolved"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        exit_codes.USER_ERROR,
        "moe-jax doctor: No space left on device: free some space, or give a path on another "
        "disk\n",
    )


def test_a_file_that_may_not_be_written_is_the_users(moe_jax, raising):
    raising(PermissionError(errno.EACCES, "Permission denied", "/root/mine.json"))
    code, _, errors = moe_jax("doctor")
    assert code == exit_codes.USER_ERROR
    assert errors == (
        "moe-jax doctor: /root/mine.json: Permission denied: change its permissions, or give "
        "another path\n"
    )


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"moe-jax {version('moe-jax')}\n"
