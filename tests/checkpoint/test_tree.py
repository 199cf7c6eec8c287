"""Pytrees as nested dicts by key path, and the messages about what does not fit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from support.checkpoint_cases import abstract, make_state, mesh_of

from moe_jax.checkpoint import tree
from moe_jax.checkpoint.errors import CheckpointError


class Pair(NamedTuple):
    value: jax.Array
    other: jax.Array


def test_paths_hold_keys_names_and_indices_but_no_classes():
    params = {"w": jnp.ones(3)}
    state = {"params": params, "opt": optax.adam(1e-3).init(params), "pair": Pair(*jnp.ones(2))}
    assert sorted(tree.flatten(state)) == [
        "opt/0/count",
        "opt/0/mu/w",
        "opt/0/nu/w",
        "pair/other",
        "pair/value",
        "params/w",
    ]


def test_nnx_state_has_the_paths_of_its_pure_dict():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert tree.paths_of(state) == tree.paths_of(nnx.to_pure_dict(state)) == ["bias", "kernel"]


def test_nest_and_lookup_are_inverse_to_flatten():
    state = make_state(1, mesh_of(8))
    flat = tree.flatten(state)
    nested = tree.nest(flat)
    assert set(nested["opt"]) == {"0", "1"}
    assert all(tree.lookup(nested, path) is leaf for path, leaf in flat.items())


def test_key_with_the_separator_is_refused():
    with pytest.raises(CheckpointError, match=r"'a/b'.*rename it"):
        tree.flatten({"a/b": jnp.ones(1)})


class _Twins:
    """A node whose two children have keys of one spelling, as `"0"` and `0` have."""


jax.tree_util.register_pytree_with_keys(
    _Twins,
    lambda _: (((jax.tree_util.DictKey("0"), 1.0), (jax.tree_util.SequenceKey(0), 2.0)), None),
    lambda _, children: _Twins(),
)


def test_two_leaves_of_one_path_are_refused():
    with pytest.raises(CheckpointError, match="x/0: several arrays"):
        tree.flatten({"x": _Twins()})


@pytest.mark.parametrize(
    ("leaf", "words"),
    [(3, "count is a int"), (jax.random.key, "count is a typed PRNG key.*key_data")],
)
def test_leaves_that_would_not_come_back_are_refused(leaf, words):
    value = leaf(0) if callable(leaf) else leaf
    with pytest.raises(CheckpointError, match=words):
        tree.check_savable({"count": value})


def test_empty_state_is_refused():
    with pytest.raises(CheckpointError, match="no arrays"):
        tree.check_savable({})


def fits(change, extra="error"):
    state = tree.flatten(make_state(1, mesh_of(8)))
    wanted = abstract(state)
    change(wanted)
    tree.check_fits(tree.specs_of(state), wanted, extra, "the checkpoint")


def test_the_same_arrays_fit():
    fits(lambda wanted: None)


def retype(path, **change):
    def apply(wanted):
        old = wanted[path]
        new = {"shape": old.shape, "dtype": old.dtype, "sharding": old.sharding} | change
        wanted[path] = jax.ShapeDtypeStruct(**new)

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            retype("params/w", dtype=jnp.int32),
            r"params/w \(saved float32\[16,24\], wanted int32\[16,24\]\).*configuration",
        ),
        (
            retype("params/w", shape=(24, 16)),
            r"params/w \(saved float32\[16,24\], wanted float32\[24,16\]\)",
        ),
        (lambda wanted: wanted.pop("count"), "saved but not wanted: count"),
        (
            lambda wanted: wanted.update(new=wanted["count"]),
            "wanted but not saved: new",
        ),
        (retype("count", sharding=None), "no sharding given for count"),
    ],
)
def test_misfits_name_the_array_and_both_sides(change, words):
    with pytest.raises(CheckpointError, match=words):
        fits(change)


def test_unwanted_arrays_can_be_ignored():
    fits(lambda wanted: wanted.pop("count"), extra="ignore")


def test_long_lists_are_cut_and_counted():
    with pytest.raises(CheckpointError, match=r"x9 and 15 more"):
        tree.check_fits({}, {f"x{i}": _scalar() for i in range(25)}, "error", "it")


def _scalar():
    return abstract(jnp.ones(()))
