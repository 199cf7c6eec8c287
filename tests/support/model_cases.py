"""A tiny transformer on any mesh: its logits, losses and gradients. No tests here."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from moe_jax.axes import BATCH_AXES, TENSOR
from moe_jax.config import Config, check, override
from moe_jax.mesh.build import build_mesh, mesh_shape
from moe_jax.model.loss import cross_entropy_sum
from moe_jax.model.parallel import Parallel, resolve_parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights
from moe_jax.moe.balance import auxiliary_loss
from moe_jax.moe.layer import MoeStats
from moe_jax.sharding.regions import run_gathered

ROWS, LENGTH, VOCAB, EXPERTS = 32, 8, 31, 8
TINY = override(
    Config(),
    [
        f"model.vocab_size={VOCAB}",
        "model.d_model=16",
        "model.num_layers=2",
        "model.init_std=0.2",
        "model.attention.heads=2",
        "model.attention.kv_heads=1",
        "model.attention.head_dim=8",
        "model.mlp.d_ff=24",
        f"model.moe.num_experts={EXPERTS}",
        "model.moe.d_ff=12",
        f"data.sequence_length={LENGTH}",
        f"train.global_batch={ROWS}",
        "exchange.transport=all_to_all",
        # One round holds everything, so that further ones are not compiled; see OVERFLOWING.
        "exchange.capacity_factor=8.0",
    ],
)
OVERFLOWING = "exchange.capacity_factor=0.75"


@dataclass(frozen=True)
class Outcome:
    """Rows of `logits` are the sequences in their original order."""

    logits: np.ndarray
    loss: float
    auxiliary: float
    grads: dict[str, np.ndarray]
    stats: MoeStats | None


def configured(*overrides: str) -> Config:
    config = override(TINY, overrides)
    check(config)
    return config


def parallel_of(config: Config) -> Parallel:
    """Runs on the first devices of this process, which pretend to be two hosts."""
    size = math.prod(mesh_shape(config.mesh))
    shards = math.prod(getattr(config.mesh, axis) for axis in BATCH_AXES)
    return resolve_parallel(
        config,
        build_mesh(config.mesh, jax.devices()[:size]),
        platform="cpu",
        hosts=tuple(int(i >= shards / 2) for i in range(shards)),
        batch_tokens=ROWS * LENGTH // (shards * config.exchange.streams),
    )


def sequences() -> dict[str, np.ndarray]:
    """Ids, targets and weights [rows, length]; two documents in each sequence."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, size=(ROWS, LENGTH + 1)).astype(np.int32)
    second = np.arange(LENGTH) >= rng.integers(1, LENGTH, size=(ROWS, 1))
    first_of_second = second.argmax(axis=1)[:, None]
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": second.astype(np.int32) + 1,
        "positions": (np.arange(LENGTH) - second * first_of_second).astype(np.int32),
        "weights": rng.uniform(size=(ROWS, LENGTH)).astype(np.float32),
    }


def jitted(config: Config):
    """Returns (weights, streamed sequences) -> loss, aux and gradients, compiled once."""
    parallel, skeleton = parallel_of(config), Skeleton(config)

    def objective(params, buffers, batch):
        model = skeleton.merge(Weights(params, buffers))
        streams, stats = model.hidden(
            batch["tokens"], batch["positions"], batch["segments"], parallel, config.train.remat
        )
        nll = cross_entropy_sum(
            model, streams, batch["targets"], batch["weights"], parallel, LENGTH
        )
        loss = nll / batch["weights"].sum()
        auxiliary = jnp.zeros(())
        if stats is not None:
            auxiliary = auxiliary_loss(stats.balance, config.model.moe.router)
        return loss + auxiliary, (logits_of(model, streams, parallel), loss, auxiliary, stats)

    gradient = jax.value_and_grad(objective, has_aux=True)
    return jax.jit(lambda weights, batch: gradient(weights.params, weights.buffers, batch))


def logits_of(model, streams, parallel: Parallel):
    def heads(modules, xs):
        head, embedding = modules
        return tuple(head(x, embedding, parallel.tensor) for x in xs)

    return run_gathered(
        heads,
        parallel,
        (model.head, model.embedding),
        streams,
        in_specs=(parallel.activations,),
        out_specs=PartitionSpec(BATCH_AXES, None, TENSOR),
    )


def arrays(skeleton: Skeleton) -> Weights:
    """Return random float32 NumPy weights, norms and biases too; faster than `Skeleton.init`."""
    weights = Weights({}, {})
    for name, info in skeleton.variables.items():
        rng = np.random.default_rng(list(name.encode()))
        centre = 1.0 if name.endswith("scale") else 0.0
        value = centre + 0.2 * rng.normal(size=info.shape)
        group = weights.buffers if info.is_buffer else weights.params
        group[name] = value.astype(np.float32)
    return weights


def arguments(config: Config):
    """Returns weights on the config's mesh, and the sequences cut into streams."""
    skeleton, mesh = Skeleton(config), parallel_of(config).mesh
    weights = jax.device_put(arrays(skeleton), skeleton.shardings(mesh))
    streams = config.exchange.streams
    batch = {name: a.reshape(streams, -1, LENGTH) for name, a in sequences().items()}
    return weights, batch


@functools.cache
def compiled(*overrides: str):
    """Returns `objective` of the overridden `TINY`, once per process."""
    return jitted(configured(*overrides))


@functools.cache
def run(*overrides: str) -> Outcome:
    (_, (logits, loss, auxiliary, stats)), grads = compiled(*overrides)(
        *arguments(configured(*overrides))
    )
    return Outcome(
        np.concatenate([np.asarray(part) for part in logits]),
        float(loss),
        float(auxiliary),
        {name: np.asarray(grad) for name, grad in grads.items()},
        jax.tree.map(np.asarray, stats),
    )


def assert_same_outcome(got: Outcome, want: Outcome) -> None:
    np.testing.assert_allclose(got.logits, want.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-5)
    np.testing.assert_allclose(got.auxiliary, want.auxiliary, rtol=1e-5)
    assert got.grads.keys() == want.grads.keys()
    for name, grad in want.grads.items():
        error = np.linalg.norm(got.grads[name] - grad)
        assert error <= 1e-5 * np.linalg.norm(grad), name
