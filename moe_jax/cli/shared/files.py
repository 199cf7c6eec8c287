"""Files that verbs write and read by themselves: where they may be, and how JSON looks."""

import json
from pathlib import Path
from typing import Any

from moe_jax.errors import UserError

#: Holds moe_jax/ and, unless the package was installed without it, configs/.
SOURCE_TREE = Path(__file__).parents[3]


def require_writable(*paths: Path | None) -> None:
    """Refuse, before anything compiles, files that could not be written afterwards.

    Args:
        paths: what options name; None where an option was not given.

    Raises:
        UserError: the first that is a directory, or is in none that exists.
    """
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UserError(f"cannot write {path}: give a file in a directory that exists")


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON that people can read, with a line's end."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def config_of_source_tree(name: str, command: str) -> Path:
    """Return the path of a config that comes with the source tree.

    Args:
        name: of the file in `configs/`.
        command: how to give its path instead, up to the path.

    Raises:
        UserError: the package is installed without its source tree.
    """
    path = SOURCE_TREE / "configs" / name
    if not path.is_file():
        raise UserError(
            f"configs/{name} is part of the source tree and is not installed with the package: "
            f"give its path, as in {command} path/to/configs/{name}"
        )
    return path
