"""Pytrees as plain nested dicts of arrays, and whether saved arrays fit the wanted ones.

A checkpoint must not depend on Python classes: optax states, NamedTuples and nnx states are
stored under their key paths only. Files and orbax do not appear here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from moe_jax.checkpoint.errors import CheckpointError

SEPARATOR = "/"
#: How many arrays an error names before it only counts the rest.
NAMED = 10

Specs = dict[str, dict[str, Any]]


def paths_of(state: Any) -> list[str]:
    """Return the path of each leaf, in `jax.tree.leaves` order, such as `opt/0/mu/layers/w_up`.

    An `nnx.Variable` is named like the array in it, so an nnx state and the pure dict of it have
    the same paths.

    Raises:
        CheckpointError: Two leaves have the same path, or a key contains the separator.
    """
    variables = {
        path
        for path, leaf in jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_variable)
        if _is_variable(leaf)
    }
    paths = []
    for path, _ in jax.tree_util.tree_leaves_with_path(state):
        keys = path[:-1] if path[:-1] in variables else path
        paths.append(SEPARATOR.join(_key_name(key, path) for key in keys))
    repeated = sorted({path for path in paths if paths.count(path) > 1})
    if repeated:
        raise CheckpointError(
            f"{_some(repeated)}: several arrays of the state have this path, each needs its own: "
            "name the dict keys differently"
        )
    return paths


def flatten(state: Any) -> dict[str, Any]:
    """Return the leaves by path."""
    return dict(zip(paths_of(state), jax.tree.leaves(state), strict=True))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"a/b": x}` as `{"a": {"b": x}}`."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split(SEPARATOR)
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = leaf
    return nested


def lookup(nested: Mapping[str, Any], path: str) -> Any:
    """Return the leaf of a nested dict at `path`."""
    level: Any = nested
    for key in path.split(SEPARATOR):
        level = level[key]
    return level


def check_savable(flat: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a leaf that could not come back as it is."""
    if not flat:
        raise CheckpointError("the state to save holds no arrays: pass the training state")
    for path, leaf in flat.items():
        if not isinstance(leaf, jax.Array):
            raise CheckpointError(
                f"{path} is a {type(leaf).__name__}, a checkpoint holds jax.Arrays: wrap it in "
                "jnp.asarray(..., dtype), or put it into info"
            )
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise CheckpointError(
                f"{path} is a typed PRNG key, which depends on its implementation: save "
                "jax.random.key_data(key), and wrap it again after restoring"
            )
        if jax.process_count() > 1 and leaf.is_fully_addressable:
            raise CheckpointError(
                f"{path} lives on this process only, so processes could disagree about it: "
                "jax.device_put it to a sharding over the whole mesh"
            )


def specs_of(flat: Mapping[str, Any]) -> Specs:
    """Return shape and dtype of each array, as the manifest records them."""
    return {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in flat.items()
    }


def check_fits(
    saved: Specs, wanted: Mapping[str, jax.ShapeDtypeStruct], extra: str, where: str
) -> None:
    """Raise CheckpointError unless every wanted array is saved with its shape and dtype.

    Args:
        saved: What the checkpoint holds.
        wanted: What the caller wants, with shardings.
        extra: `"error"` refuses arrays that are saved but not wanted, `"ignore"` leaves them.
        where: How the message names the checkpoint.
    """
    unplaced = [path for path, spec in wanted.items() if spec.sharding is None]
    if unplaced:
        raise CheckpointError(
            f"no sharding given for {_some(unplaced)}: a restored array needs one, pass "
            "jax.ShapeDtypeStruct(shape, dtype, sharding=...)"
        )
    problems = []
    missing = [path for path in wanted if path not in saved]
    if missing:
        problems.append(f"wanted but not saved: {_some(missing)}")
    unwanted = [path for path in saved if path not in wanted]
    if unwanted and extra == "error":
        problems.append(f"saved but not wanted: {_some(unwanted)}")
    want = specs_of(wanted)
    differing = [
        f"{path} (saved {_spec(saved[path])}, wanted {_spec(want[path])})"
        for path in want
        if path in saved and saved[path] != want[path]
    ]
    if differing:
        problems.append(f"of another shape or dtype, never converted: {_some(differing)}")
    if problems:
        raise CheckpointError(
            f"{where} does not fit: {'; '.join(problems)}. Use the configuration that is saved "
            "with the checkpoint (model, optimizer and precision must agree), or start without it"
        )


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _key_name(key: Any, path: tuple[Any, ...]) -> str:
    name = jax.tree_util.keystr((key,), simple=True)
    if SEPARATOR in name or not name:
        raise CheckpointError(
            f"key {name!r} in {jax.tree_util.keystr(path)} is empty or contains {SEPARATOR!r}, "
            "which separates keys in a checkpoint: rename it"
        )
    return name


def _spec(spec: Mapping[str, Any]) -> str:
    return f"{spec['dtype']}[{','.join(map(str, spec['shape']))}]"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
