"""Whose a failure is: the user's path, the machine's trouble, or ours."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moe_jax
from moe_jax.cli.shared import exit_codes
from moe_jax.cli.shared.failures import explain, problem_of_path
from moe_jax.errors import UserError


def of(code: int, path: str | None = "mine/file") -> OSError:
    return OSError(code, os.strerror(code), *([] if path is None else [path]))


def failing(error, capsys):
    """Raises an error, has it explained; returns the exit code and what was said."""
    try:
        raise error
    except Exception as raised:
        code = explain(raised, "train")
    return code, capsys.readouterr().err


def test_a_mistake_is_its_message_alone(capsys):
    code, text = failing(UserError("top_k (9) must be at most 8"), capsys)
    assert (code, text) == (exit_codes.USER_ERROR, "moe-jax train: top_k (9) must be at most 8\n")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOENT, "No such file or directory: check the path"),
        (errno.EACCES, "Permission denied: change its permissions, or give another path"),
        (errno.EISDIR, "Is a directory: it is a directory: give a file"),
        (errno.ENOSPC, "No space left on device: free some space, or give a path on another disk"),
        (errno.EROFS, "Read-only file system: give a path that can be written to"),
    ],
)
def test_a_path_of_the_users_is_named_with_a_remedy(code, remedy, capsys):
    exit_code, text = failing(of(code), capsys)
    assert exit_code == exit_codes.USER_ERROR
    assert text == f"moe-jax train: mine/file: {remedy}\n"


def test_real_errors_of_the_system_are_told_like_that(tmp_path, capsys):
    for act in (lambda: (tmp_path / "none").read_text(), lambda: tmp_path.read_text()):
        with pytest.raises(OSError, match="Errno") as raised:
            act()
        code, text = failing(raised.value, capsys)
        assert code == exit_codes.USER_ERROR
        assert str(tmp_path) in text
        assert "Traceback" not in text


def test_a_full_disk_has_no_path_and_is_the_users_all_the_same():
    assert problem_of_path(of(errno.ENOSPC, None)) == (
        "No space left on device: free some space, or give a path on another disk"
    )
    assert problem_of_path(of(errno.ENOENT, None)) is None


@pytest.mark.parametrize("path", [os.__file__, str(Path(moe_jax.__file__).parent / "gone.toml")])
def test_files_of_python_and_of_ours_are_not_the_users(path):
    assert problem_of_path(of(errno.ENOENT, path)) is None


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "see the lines above"),
        (MemoryError(), "out of memory; `moe-jax plan CONFIG` says"),
    ],
)
def test_trouble_of_the_machine_shows_where_and_is_no_defect(error, hint, capsys):
    code, text = failing(error, capsys)
    assert code == exit_codes.FAILED
    assert "Traceback" in text
    assert hint in text.splitlines()[-1]
    assert "defect" not in text


def test_devices_out_of_memory_are_told_so(capsys):
    error = type("JaxRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of memory")
    code, text = failing(error, capsys)
    assert code == exit_codes.FAILED
    assert "out of memory" in text.splitlines()[-1]


@pytest.mark.parametrize("error", [ValueError("bare"), KeyError("x"), RecursionError("deep")])
def test_all_else_is_a_defect_with_versions(error, capsys):
    code, text = failing(error, capsys)
    assert code == exit_codes.DEFECT
    assert "Traceback" in text
    last = text.splitlines()[-1]
    assert "please report it" in last
    assert f"python {sys.version.split()[0]}, moe-jax " in last


def test_a_reader_who_leaves_is_no_failure():
    code = (
        "import sys\n"
        "from moe_jax.cli.shared.failures import explain\n"
        "try:\n"
        "    while True: print('x' * 1000)\n"
        "except Exception as error:\n"
        "    sys.exit(explain(error, 'doctor'))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (exit_codes.READER_GONE, b"")
