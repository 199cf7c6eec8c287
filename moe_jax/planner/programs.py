"""The programs that deviceless compiles are about: the very functions that training and
inference run.

Each is a builder for `compile.Job`: called by the worker with a mesh over the target's devices,
it returns a jitted function and its abstract arguments.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moe_jax.config import Config
from moe_jax.data.batch import Batch, batch_shape
from moe_jax.inference.generate import Generator
from moe_jax.inference.sampling import SamplingOptions, stack
from moe_jax.mesh.axes import BATCH_AXES, TENSOR
from moe_jax.model.parallel import resolve_parallel
from moe_jax.train.batch_sharding import BATCH_SPEC
from moe_jax.train.state import abstract_state
from moe_jax.train.step import Steps, make_steps


def train_step(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> tuple[Any, tuple]:
    """The whole training step: forward, backward, optimiser; state donated."""
    steps = _steps(mesh, config, devices_per_host)
    state = abstract_state(steps.skeleton, steps.optimizer, mesh)
    return steps.jit_train(), (state, abstract_batch(steps.config, mesh))


def forward(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> tuple[Any, tuple]:
    """From a batch to its loss."""
    steps = _steps(mesh, config, devices_per_host)
    params, buffers = steps.skeleton.abstract(mesh)
    return steps.jit_evaluate(), (params, buffers, abstract_batch(steps.config, mesh))


def decode(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> tuple[Any, tuple]:
    """The next token of each sequence of the global batch, at once and greedily.

    There is no cache yet: a step is a forward pass over the whole window.
    """
    steps = _steps(mesh, config, devices_per_host)
    rows, length = steps.config.train.global_batch, steps.config.data.sequence_length
    params, buffers = steps.skeleton.abstract(mesh)
    generator = Generator(
        steps.skeleton, steps.parallel, params, buffers, samples=rows, platform="gpu"
    )
    split = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    tokens = jax.ShapeDtypeStruct((1, rows, length), jnp.int32, sharding=split)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    seen = jax.ShapeDtypeStruct((rows, steps.config.model.vocab_size), jnp.bool_)
    index = jax.ShapeDtypeStruct((rows,), jnp.int32)
    greedy = jax.eval_shape(lambda: stack([SamplingOptions(temperature=0)] * rows))
    return generator.next_token, (params, buffers, tokens, scalar, greedy, seen, index)


def abstract_batch(config: Config, mesh: Mesh) -> Batch:
    """Returns the batch of a step as ShapeDtypeStructs with shardings."""
    sharding = NamedSharding(mesh, BATCH_SPEC)

    def array(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(batch_shape(config), dtype, sharding=sharding)

    ids = array(jnp.int32)
    return Batch(ids, ids, ids, ids, array(jnp.float32))


def _steps(mesh: Mesh, config: dict[str, Any], devices_per_host: int) -> Steps:
    checked = Config.model_validate(config, strict=False)
    shards = 1
    for axis in BATCH_AXES:
        shards *= mesh.shape[axis]
    _, _, batch, length = batch_shape(checked)
    parallel = resolve_parallel(
        checked,
        mesh,
        platform="gpu",
        hosts=tuple(i * mesh.shape[TENSOR] // devices_per_host for i in range(shards)),
        batch_tokens=batch * length // shards,
    )
    return make_steps(checked, parallel)
