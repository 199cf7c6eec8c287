"""What a verb that raised tells its user, and the exit code for it.

A mistake of the user's is a message. All else shows where it happened, since somebody has to mend
it: the machine's owner, or we.
"""

import errno
import os
import platform
import select
import sys
import sysconfig
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from moe_jax.cli.shared import exit_codes
from moe_jax.errors import UserError

#: What the system says of a path -> what to do about it.
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file: check it",
    errno.EISDIR: "it is a directory: give a file",
    errno.EEXIST: "give another path, or move it away",
    errno.ENOTEMPTY: "give another path, or empty it",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path that can be written to",
    errno.ENOSPC: "free some space, or give a path on another disk",
    errno.EDQUOT: "free some space, or give a path on another disk",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "its links go round in a circle: give the file itself",
}
#: Happen while writing, when the system no longer knows the path.
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: JAX's own error by its two names: of XLA, the driver, the network between processes.
_MACHINE = ("JaxRuntimeError", "XlaRuntimeError")
_PACKAGES = ("moe-jax", "jax", "jaxlib", "flax", "orbax-checkpoint")


def explain(error: Exception, verb: str) -> int:
    """Say on standard error why a verb failed.

    Args:
        error: what it raised, being handled.
        verb: what was run.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError) and _reader_is_gone():
        return exit_codes.READER_GONE
    if isinstance(error, UserError):
        print(f"moe-jax {verb}: {error}", file=sys.stderr)
        return exit_codes.USER_ERROR
    if isinstance(error, OSError) and (problem := problem_of_path(error)):
        _give_up_stdout()
        print(f"moe-jax {verb}: {problem}", file=sys.stderr)
        return exit_codes.USER_ERROR
    traceback.print_exception(error)
    if _of_machine(error):
        print(f"moe-jax {verb}: the machine or a library failed{_hint(error)}", file=sys.stderr)
        return exit_codes.FAILED
    print(
        f"moe-jax {verb}: this is a defect of moe-jax, not of what you gave it: please report it "
        f"where you got moe-jax from, with the command and the lines above; {_versions()}",
        file=sys.stderr,
    )
    return exit_codes.DEFECT


def problem_of_path(error: OSError) -> str | None:
    """Return what is wrong with a path of the user's, and the remedy; None if it is none of theirs.

    Args:
        error: any; those of sockets and processes, and of files of Python's own or of its
            packages, are not the user's.
    """
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    if error.filename is None:
        return f"{error.strerror}: {remedy}" if error.errno in _FULL else None
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if not path or _is_installed(Path(path)):
        return None
    return f"{path}: {error.strerror}: {remedy}"


def _is_installed(path: Path) -> bool:
    """Whether a path is Python's or a package's."""
    roots = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    roots.add(str(Path(__file__).parents[2]))
    return any(path.absolute().is_relative_to(root) for root in roots)


def _reader_is_gone() -> bool:
    """Whether standard output is what broke; then nothing more is written to it."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:
        # It is no file, but an object of a program that calls us.
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    gone = any(events & select.POLLERR for _, events in poll.poll(0))
    if gone:
        _silence(stdout)
    return gone


def _give_up_stdout() -> None:
    """Write nothing more to standard output if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout.fileno())


def _silence(stdout: int) -> None:
    """Send what is left to nowhere: Python flushes once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)


def _of_machine(error: Exception) -> bool:
    return type(error).__name__ in _MACHINE or isinstance(error, MemoryError | OSError)


def _hint(error: Exception) -> str:
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return ": out of memory; `moe-jax plan CONFIG` says what a config needs on each device"
    return ": see the lines above"


def _versions() -> str:
    known = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            known.append(f"{package} not installed")
    return ", ".join(known)
