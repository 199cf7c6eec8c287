"""Our training step, the one that `moe-jax train` runs, on the weights and tokens of all."""

import jax
import jax.numpy as jnp

from moe_jax.bench.rivals.hashed import jax_maker
from moe_jax.bench.rivals.steps.first_steps import two_steps
from moe_jax.bench.rivals.steps.problem import STD
from moe_jax.bench.rivals.steps.tokens import random_tokens
from moe_jax.bench.rivals.trial import JaxTrial
from moe_jax.config import Config
from moe_jax.data.batch import Batch, batch_shape
from moe_jax.mesh.build import build_mesh
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.weights import Weights
from moe_jax.session import Session, make_session
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.state import init_state
from moe_jax.training.step import make_steps


def our_step(config: Config) -> JaxTrial:
    """Return our training step, ready to run on the first device of this process."""
    mesh = build_mesh(config.mesh, jax.devices()[:1])
    session = make_session(config, jax.default_backend(), mesh=mesh)
    steps = make_steps(session.skeleton, session.parallel)
    state = init_state(session.skeleton, steps.optimizer, session.mesh, _weights(session))
    batch = _batch(session)
    program = steps.jit_train(compiler_options(session.platform))
    seen: dict[str, StepMetrics] = {}

    def call() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = program(state, batch)
        seen["metrics"] = metrics
        return {"loss": metrics.loss, "grad_norm": metrics.grad_norm}

    return JaxTrial(call, lambda: _counts(seen["metrics"]), checked=lambda: two_steps(call))


def _weights(session: Session) -> Weights:
    """Return parameters whose numbers follow from their names within a layer."""
    abstract = session.skeleton.abstract(session.mesh)
    make = jax_maker("float32")

    def create() -> dict[str, jax.Array]:
        return {
            name: jnp.ones(spec.shape)
            if "scale" in name
            else make(_short_name(name), spec.shape, STD)
            for name, spec in abstract.params.items()
        }

    shardings = session.skeleton.shardings(session.mesh)
    params = jax.jit(create, out_shardings=shardings.params)()
    assert not abstract.buffers, "the problem's router has no selection bias"
    return Weights(params, {})


def _short_name(name: str) -> str:
    """Return a parameter's name without the stack it lies in: "moe.experts.w_up_edf"."""
    return name.rpartition("blocks.0.")[2]


def _batch(session: Session) -> Batch:
    config = session.config
    shape = batch_shape(config)
    ids = random_tokens(config)
    tokens, targets = (
        jnp.asarray(part.reshape(shape), jnp.int32) for part in (ids[:, :-1], ids[:, 1:])
    )
    batch = Batch(
        tokens=tokens,
        targets=targets,
        segments=jnp.ones_like(tokens),
        positions=jnp.broadcast_to(jnp.arange(shape[-1], dtype=jnp.int32), shape),
        weights=jnp.ones(shape),
    )
    return jax.device_put(batch, session.batch_sharding())


def _counts(metrics: StepMetrics) -> dict[str, int]:
    assert metrics.stats is not None, "every layer is an MoE"
    stats = metrics.stats.exchange
    return {"dropped": int(stats.rows_dropped.sum()), "padded": int(stats.rows_padded.sum())}
