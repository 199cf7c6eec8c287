"""Reads the logical axes of a module's variables and says where each is stored or used."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moe_jax.sharding.rules import partition_spec

SpecOf = Callable[[tuple[str, ...]], PartitionSpec]


def specs(state: nnx.State, spec_of: SpecOf = partition_spec) -> nnx.State:
    """Returns `state` with each array replaced by `spec_of(its logical axes)`."""
    return jax.tree.map(
        lambda variable: variable.replace(spec_of(variable.axes)), state, is_leaf=_is_variable
    )


def shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """Returns `state` with each array replaced by the sharding it is stored under."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(state), is_leaf=_is_spec)


def with_layers_axis(state: nnx.State) -> nnx.State:
    """Returns a stacked state whose variables say so in their logical axes."""

    def relabel(variable: nnx.Variable) -> nnx.Variable:
        metadata = variable.get_metadata() | {"axes": ("layers", *variable.axes)}
        return type(variable)(variable[...], **metadata)

    return jax.tree.map(relabel, state, is_leaf=_is_variable)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)
