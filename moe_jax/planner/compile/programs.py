"""The programs that are planned: the very functions that training and inference run.

Each is a builder for `jobs.CompileJob`: called by the worker with a mesh over the target's devices,
it returns a jitted function and its abstract arguments.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moe_jax.axes import BATCH_AXES
from moe_jax.config import Config
from moe_jax.data.batch import abstract_batch, stream_tokens
from moe_jax.inference.programs import EnginePrograms
from moe_jax.inference.sampling import stack
from moe_jax.inference.sampling_options import SamplingOptions
from moe_jax.mesh.build import hosts_of_shards
from moe_jax.model.parallel import resolve_parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.training.state import abstract_state
from moe_jax.training.step import Steps, make_steps


def train_step(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> tuple[Any, tuple]:
    """Build the whole training step: forward, backward, optimiser; state donated."""
    steps = _steps(mesh, config, devices_per_host)
    state = abstract_state(steps.skeleton, steps.optimizer, mesh)
    return steps.jit_train(), (state, abstract_batch(steps.config, mesh))


def forward(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> tuple[Any, tuple]:
    """Build the way from a batch to its loss."""
    steps = _steps(mesh, config, devices_per_host)
    weights = steps.skeleton.abstract(mesh)
    return steps.jit_evaluate(), (weights, abstract_batch(steps.config, mesh))


def decode(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> tuple[Any, tuple]:
    """Build the step that gives each sequence of the global batch its next token.

    Args:
        mesh: over the target's devices.
        config: of inference; caches are of its sequence length, and full.
        devices_per_host: of the target.
    """
    skeleton = Skeleton(Config.model_validate(config, strict=False))
    slots = skeleton.config.train.global_batch
    context = skeleton.config.data.sequence_length
    programs = EnginePrograms(
        skeleton,
        mesh,
        platform="gpu",
        hosts=hosts_of_shards(mesh, devices_per_host),
        slots=slots,
        context=context,
    )

    def on_mesh(array: Any, *spec: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    newest = on_mesh(jax.ShapeDtypeStruct((slots, 4), jnp.int32), BATCH_AXES)
    sampling = jax.tree.map(on_mesh, stack([SamplingOptions()] * slots))
    arguments = (skeleton.abstract(mesh), newest, sampling, programs.abstract_memory)
    return programs.decode(context), arguments


def _steps(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> Steps:
    checked = Config.model_validate(config, strict=False)
    parallel = resolve_parallel(
        checked,
        mesh,
        platform="gpu",
        hosts=hosts_of_shards(mesh, devices_per_host),
        batch_tokens=stream_tokens(checked),
    )
    return make_steps(Skeleton(checked), parallel)
