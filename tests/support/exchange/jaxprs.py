"""Walks over what JAX traced: every equation, however deeply nested. No tests here."""

from collections.abc import Iterator
from types import SimpleNamespace

import jax


def equations_of(jaxpr) -> Iterator:
    """Yields the equations of a jaxpr and of all jaxprs inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from equations_of(getattr(inner, "jaxpr", inner))


def inside_shard_map(jaxpr):
    """Returns the bodies of all shard_maps as one list of equations: what one device does."""
    bodies = [
        eqn.params["jaxpr"] for eqn in equations_of(jaxpr) if "shard_map" in str(eqn.primitive)
    ]
    assert bodies, "the exchange must run inside shard_map"
    return SimpleNamespace(eqns=[eqn for body in bodies for eqn in body.eqns])


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns")
