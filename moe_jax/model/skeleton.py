"""A model without its values: structure, parameter names, shapes and shardings.

Training, checkpoints and optimisers see parameters as a flat dict, dotted name -> array
(`stacks.0.unit.blocks.0.moe.experts.w_up_edf`); this file turns that into a module and back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from moe_jax.config.schema import Config
from moe_jax.model.pattern import moe_rows
from moe_jax.model.transformer import Transformer, make_transformer
from moe_jax.model.weights import Weights
from moe_jax.moe.router import SelectionBias
from moe_jax.sharding.rules import Placement

#: Shapes and shardings need the mesh's axes, not its devices.
AnyMesh = Mesh | AbstractMesh


@dataclass(frozen=True)
class VariableInfo:
    """One parameter (or buffer: a variable that gradients do not move)."""

    shape: tuple[int, ...]
    dtype: Any
    #: Logical axis of each dimension.
    axes: tuple[str, ...]
    is_buffer: bool


class Skeleton:
    """The structure of the model of a config."""

    def __init__(self, config: Config):
        self.config = config
        self._graphdef, self._state = nnx.split(nnx.eval_shape(lambda: make_transformer(config, 0)))
        self.variables: dict[str, VariableInfo] = {
            name: VariableInfo(
                variable.shape, variable.dtype, variable.axes, isinstance(variable, SelectionBias)
            )
            for name, variable in _named(self._state)
        }

    @property
    def buffer_rows(self) -> dict[str, list[int]]:
        """For each router's selection bias, the MoE layers that its rows belong to."""
        return {
            f"stacks.{stack}.unit.blocks.{place}.moe.router.bias_e": rows
            for (stack, place), rows in moe_rows(self.config.model).items()
        }

    def init(self, seed: int, mesh: Mesh) -> Weights:
        """Return fresh weights, created in place on the mesh.

        The values depend on the seed alone, not on the mesh.

        Args:
            seed: of every random number.
            mesh: where the arrays go, as the config's sharding says.
        """

        def create() -> Weights:
            state = nnx.split(make_transformer(self.config, seed))[1]
            return self._divide({name: variable[...] for name, variable in _named(state)})

        return jax.jit(create, out_shardings=self.shardings(mesh))()

    def merge(self, weights: Weights) -> Transformer:
        """Return the module that holds these arrays."""
        values = weights.by_name
        flat = [(path, v.replace(values[_name(path)])) for path, v in _flat(self._state)]
        return nnx.merge(self._graphdef, nnx.from_flat_state(flat))

    def abstract(self, mesh: AnyMesh) -> Weights:
        """Return the weights as ShapeDtypeStructs with their shardings."""
        return self._map(
            lambda info: jax.ShapeDtypeStruct(
                info.shape, info.dtype, sharding=self._sharding(info, mesh)
            )
        )

    def shardings(self, mesh: AnyMesh) -> Weights:
        """Return the weights as NamedShardings."""
        return self._map(lambda info: self._sharding(info, mesh))

    def optimizer_shardings(self, mesh: AnyMesh) -> dict[str, NamedSharding]:
        """Return where optimiser state of a parameter's shape lives, by the parameter's name."""
        placement = self._placement(mesh)
        return {
            name: NamedSharding(mesh, placement.optimizer(info.axes, info.shape))
            for name, info in self.variables.items()
            if not info.is_buffer
        }

    def parameter_count(self) -> int:
        """Return the number of parameters, all experts included."""
        return sum(_size(info.shape) for info in self.variables.values() if not info.is_buffer)

    def _placement(self, mesh: AnyMesh) -> Placement:
        return Placement(
            dict(mesh.shape), self.config.sharding, self.config.pipeline.virtual_stages
        )

    def _sharding(self, info: VariableInfo, mesh: AnyMesh) -> NamedSharding:
        return NamedSharding(mesh, self._placement(mesh).stored(info.axes, info.shape))

    def _map(self, function: Callable[[VariableInfo], Any]) -> Weights:
        return self._divide({name: function(info) for name, info in self.variables.items()})

    def _divide(self, values: dict[str, Any]) -> Weights:
        params = {n: v for n, v in values.items() if not self.variables[n].is_buffer}
        return Weights(params, {n: v for n, v in values.items() if self.variables[n].is_buffer})


def _flat(state: nnx.State) -> list[tuple[tuple, nnx.Variable]]:
    return list(nnx.to_flat_state(state))


def _named(state: nnx.State) -> list[tuple[str, nnx.Variable]]:
    return [(_name(path), variable) for path, variable in _flat(state)]


def _name(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size
