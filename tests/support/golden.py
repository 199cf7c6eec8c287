"""The resolved whole of every file in configs/, kept in tests/config/golden. No tests here.

Rewrite them after a default or a config has changed, and read what the change is in the diff:

    .venv/bin/python tests/support/golden.py
"""

from pathlib import Path

from moe_jax.config import dump_config, load_config

# A script finds no `support`: its folder is this one.
TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "config" / "golden"
FILES = sorted((TESTS.parent / "configs").glob("*.toml"))


def golden_text(path: Path) -> str:
    """Return what the golden file of a config is to say."""
    return dump_config(load_config(path))


def rewrite() -> None:
    """Write the golden file of every config, and delete those of no config."""
    GOLDEN.mkdir(exist_ok=True)
    for path in set(GOLDEN.glob("*.toml")) - {GOLDEN / file.name for file in FILES}:
        path.unlink()
    for path in FILES:
        (GOLDEN / path.name).write_text(golden_text(path), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
