"""What training carries from step to step, and where each part is stored."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moe_jax.model.skeleton import AnyMesh, Skeleton
from moe_jax.model.weights import Leaf, Weights


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """One pytree, donated to every step."""

    #: Steps taken, skipped ones included: the data position.
    step: Leaf
    params: dict[str, Leaf]
    #: Variables that gradients do not move (the router's selection biases).
    buffers: dict[str, Leaf]
    opt_state: Any
    #: Non-finite steps: consecutive ones up to now, and all.
    skipped_in_a_row: Leaf
    skipped: Leaf

    @property
    def weights(self) -> Weights:
        """The model's values. Two fields, since checkpoints name their arrays by fields."""
        return Weights(self.params, self.buffers)


def init_state(
    skeleton: Skeleton,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    weights: Weights | None = None,
) -> TrainState:
    """Return a fresh state, created in place on the mesh.

    Args:
        skeleton: of the model.
        optimizer: of the run.
        mesh: where the state lives.
        weights: to start from; None makes random ones of the config's seed.
    """
    weights = weights or skeleton.init(skeleton.config.seed, mesh)
    shardings = state_shardings(skeleton, optimizer, mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(weights.params)
    zeros = [jax.device_put(jnp.zeros((), jnp.int32), shardings.step) for _ in range(3)]
    return TrainState(zeros[0], weights.params, weights.buffers, opt_state, zeros[1], zeros[2])


def abstract_state(
    skeleton: Skeleton, optimizer: optax.GradientTransformation, mesh: AnyMesh
) -> TrainState:
    """Return the state as ShapeDtypeStructs with shardings: for restoring and for compiling."""
    weights = skeleton.abstract(mesh)
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=_replicated(mesh))
    opt_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, weights.params),
        state_shardings(skeleton, optimizer, mesh).opt_state,
    )
    return TrainState(scalar, weights.params, weights.buffers, opt_state, scalar, scalar)


def state_shardings(
    skeleton: Skeleton, optimizer: optax.GradientTransformation, mesh: AnyMesh
) -> TrainState:
    """Return the state as NamedShardings: optimiser state as `sharding.optimizer` says."""
    weights = skeleton.shardings(mesh)
    beside = skeleton.optimizer_shardings(mesh)
    shapes = jax.eval_shape(optimizer.init, skeleton.abstract(mesh).params)

    def place(path: tuple, leaf: Any) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if names and names[-1] in weights.params:
            name = names[-1]
            if leaf.shape == skeleton.variables[name].shape:
                return beside[name]
        return _replicated(mesh)

    opt_state = jax.tree_util.tree_map_with_path(place, shapes)
    scalar = _replicated(mesh)
    return TrainState(scalar, weights.params, weights.buffers, opt_state, scalar, scalar)


def _replicated(mesh: AnyMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())
