"""A config that can run, and what is said of changes to it. No tests here."""

from collections.abc import Sequence

from moe_jax.config import Config, ConfigError, check, override

VALID = override(Config(), ["mesh.expert=8"])


def problems(changes: Sequence[str]) -> tuple[str, ...]:
    """Return what `check` says of the valid config with changes."""
    try:
        check(override(VALID, changes))
    except ConfigError as error:
        return error.problems
    return ()
