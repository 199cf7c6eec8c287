"""Reads the logical axes of a module's variables: where each is stored, and gathering them for use.

Inside an `on_device_shards` region variables enter as they are stored. A stack's leading layers
dimension is a scan's or a pipeline's business.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from moe_jax.axes import AXES, EXPERT, PIPE, TENSOR
from moe_jax.sharding.rules import Placement

#: The logical axis that a stack puts in front.
_LAYERS = "layers"
#: A pytree of `nnx.Variable`s, such as an `nnx.State` or a tuple of them.
Variables = Any


def stored_specs(variables: Variables, placement: Placement) -> Variables:
    """Return `variables` with each array replaced by where it is stored."""

    def one(variable: nnx.Variable) -> nnx.Variable:
        return variable.replace(placement.stored(variable.axes, variable.shape))

    return jax.tree.map(one, variables, is_leaf=_is_variable)


def stored_specs_of_layer(variables: Variables, placement: Placement) -> Variables:
    """Return `stored_specs` of one layer of stacked variables."""

    def one(variable: nnx.Variable) -> nnx.Variable:
        spec = placement.stored(variable.axes, variable.shape)
        return variable.replace(PartitionSpec(*spec[int(_is_stacked(variable)) :]))

    return jax.tree.map(one, variables, is_leaf=_is_variable)


def with_gathers(
    variables: Variables, placement: Placement, *, experts: bool = False, pipe: bool = True
) -> Variables:
    """Return variables that know what `gather` does to one layer of them.

    Args:
        variables: with whole (global) shapes.
        placement: where it is stored.
        experts: gather the experts of all devices too, instead of keeping each at home.
        pipe: gather over the pipe axis, as whatever runs outside the pipeline must.
    """
    keep = {TENSOR} | (set() if pipe else {PIPE})

    def one(variable: nnx.Variable) -> nnx.Variable:
        spec = placement.stored(variable.axes, variable.shape)
        lead, steps = int(_is_stacked(variable)), []
        for dim in range(lead, len(spec)):
            home = {EXPERT} if variable.axes[dim] == "experts" and not experts else set()
            names = _names(spec[dim])
            taken = tuple(name for name in names if name not in keep | home)
            if placement.parts(taken) > 1:
                steps.append((dim - lead, taken))
        metadata: dict[str, Any] = variable.get_metadata() | {"gathers": tuple(steps)}
        return type(variable)(variable[...], **metadata)

    return jax.tree.map(one, variables, is_leaf=_is_variable)


def rounded(variables: Variables, placement: Placement) -> Variables:
    """Return variables in the dtype that layers round them to, where that changes no gradient.

    A layer that rounds for itself does so forward and backward, slice by slice, and its gradients
    are widened and stacked as it goes: several passes over all parameters. Gradients that devices
    add up are left alone: they are to be summed in the parameters' dtype.

    Args:
        variables: with whole (global) shapes, marked by `with_gathers`.
        placement: where it is stored.
    """
    used = {axis for axis in AXES if placement.parts((axis,)) > 1}

    def one(variable: nnx.Variable) -> nnx.Variable:
        dtype = variable.get_metadata().get("used_in")
        if dtype is None or jnp.dtype(dtype).itemsize >= variable.dtype.itemsize:
            return variable
        spec = placement.stored(variable.axes, variable.shape)
        split = {name for entry in spec for name in _names(entry)}
        if variable.gathers or not used <= split:
            return variable
        return variable.replace(variable[...].astype(dtype))

    return jax.tree.map(one, variables, is_leaf=_is_variable)


def gather(variables: Variables) -> Variables:
    """Return one layer's variables whole, but for what the tensor and expert axes keep split.

    The gradient's way back is a reduce-scatter, so that nobody holds a whole gradient.

    Args:
        variables: of one layer as stored, marked by `with_gathers`.
    """

    def one(variable: nnx.Variable) -> nnx.Variable:
        value = variable[...]
        for dim, names in variable.gathers:
            value = jax.lax.all_gather(value, names, axis=dim, tiled=True)
        return variable.replace(value)

    return jax.tree.map(one, variables, is_leaf=_is_variable)


def gathers_anything(variables: Variables) -> bool:
    """Whether `gather` does anything to `variables`."""
    return any(leaf.gathers for leaf in jax.tree.leaves(variables, is_leaf=_is_variable))


def all_but_gathered(prim: Any, *_: Any, **params: Any) -> bool:
    """Rematerialisation policy: keep everything but gathered parameters."""
    return prim is not jax.lax.all_gather_p or TENSOR in params["axis_name"]


def with_layers_axis(variables: Variables) -> Variables:
    """Return stacked variables that say so in their logical axes."""

    def relabel(variable: nnx.Variable) -> nnx.Variable:
        metadata: dict[str, Any] = variable.get_metadata() | {"axes": (_LAYERS, *variable.axes)}
        return type(variable)(variable[...], **metadata)

    return jax.tree.map(relabel, variables, is_leaf=_is_variable)


def map_stacked(function: Any, variables: Variables) -> Variables:
    """Return `variables` with `function(value, dimension of "embed" or None)` for each variable.

    Args:
        function: the dimension that it gets is counted after the layers dimension.
        variables: stacked.
    """

    def one(variable: nnx.Variable) -> nnx.Variable:
        axes = variable.axes[1:]
        embed = axes.index("embed") if "embed" in axes else None
        return variable.replace(function(variable[...], embed))

    return jax.tree.map(one, variables, is_leaf=_is_variable)


def _is_stacked(variable: nnx.Variable) -> bool:
    return variable.axes[0] == _LAYERS


def _names(entry: Any) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)
