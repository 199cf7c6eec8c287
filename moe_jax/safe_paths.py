"""Which files a model's directory may name: those that lie in it, and no others.

JSON files are parsed here too; what they mean is known elsewhere (`interop/files/directory.py`,
`moe_jax.data.prompting`).
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from moe_jax.errors import UserError


def file_inside(directory: Path, name: Any, why: str = "") -> Path:
    """Return the file of that name, once it is certain that it belongs to the directory.

    Links are followed if what they point to is in the directory as well, or, for a snapshot of the
    Hugging Face cache (`models--*/snapshots/REVISION`), in the `blobs` of the same model, where the
    cache keeps its files. The directory itself may be a link.

    Args:
        directory: of a model.
        name: what one of its files, or a user, calls another.
        why: begins the message of an error, such as who names the file.

    Raises:
        UserError: it is no plain file name, leads elsewhere, or there is no such file.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or PurePosixPath(name).name != name:
        raise UserError(
            f"{directory}: {why}{name!r:.200} is not a plain file name: files of a model lie in "
            "its directory, paths that lead elsewhere are not followed"
        )
    try:
        # Strict, a loop of links is an error in every version of Python.
        real = (directory / name).resolve(strict=True)
    except FileNotFoundError:
        real = (directory / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{directory}: {why}{name!r:.200} cannot be opened ({reason}): give a regular file"
        ) from error
    if not any(real.is_relative_to(root) for root in _roots(directory.resolve())):
        raise UserError(
            f"{directory / name}: {why}it is a link to {real}, outside of the directory, which "
            "is not followed: copy the file here, or give the directory that it is in"
        )
    if not real.is_file():
        raise UserError(f"{directory / name}: {why}the file is missing: fetch it again")
    return directory / name


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of the user's that must hold an object.

    Raises:
        UserError: it is not JSON, or holds something else; names the file.
    """
    try:
        value = json.loads(path.read_bytes())
    # The last is what the parser raises at lists nested too deeply.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, it must be a JSON object")
    return value


def is_named(directory: Path, name: str) -> bool:
    """Whether a directory has an entry of that name, a broken link included."""
    path = directory / name
    return path.exists() or path.is_symlink()


def _roots(directory: Path) -> Sequence[Path]:
    """Return the directories that files may lie in."""
    blobs = directory.parent.parent / "blobs"
    if directory.parent.name == "snapshots" and blobs.is_dir():
        return (directory, blobs)
    return (directory,)
