"""Whole programs, timed: the training step, or the forward pass of a batch, with random tokens.

On a mock topology (`mock.py`) the other devices of a cluster do not exist: this device runs its
program, collectives copy inside it, and the time is that of the compute alone.

A fresh router is uneven, more so in deep layers: under `exchange.overflow = "rounds"` a step then
contains further rounds, which a trained model does not run; "drop" times the main round alone.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from moe_jax.bench.harness import measure
from moe_jax.bench.machine import EMULATED
from moe_jax.data.batch import Batch, batch_shape
from moe_jax.hardware.calibration import Measurement
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.model.flops import flops_per_token
from moe_jax.session import Session
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.state import TrainState, state_shardings
from moe_jax.training.step import Steps, make_steps

Mode = Literal["forward", "train"]

COMPUTE_ONLY = "mock topology, collectives copy inside the device: compute only"


def measure_step(
    session: Session, mode: Mode, *, repeats: int = 5, mock: bool = False
) -> Measurement:
    """Time one step of a session's config, waiting for each before the next is dispatched.

    Args:
        session: the run, assembled on the devices at hand or on a mock topology.
        mode: "train" for the whole training step, "forward" for a batch's loss.
        repeats: steps that are timed, after two that are not.
        mock: whether the session's other devices do not exist.

    Returns:
        `work` is one device's model FLOPs, without rematerialisation and padded rows.
    """
    config = session.config
    call = {"forward": _forward, "train": _train}[mode](session)
    timing = measure(call, repeats=repeats, calls=1)
    flops = flops_per_token(config)
    per_token = flops.total_training if mode == "train" else flops.total_forward
    tokens = config.train.global_batch * config.data.sequence_length
    notes = [COMPUTE_ONLY] if mock else []
    notes += [EMULATED] if session.platform == "cpu" else []
    notes += ["overflow rounds ran"] if mode == "train" and _overflowed(call()) else []
    return Measurement(
        suite="program",
        name=f"{config.name} {mode}, {config.model.num_layers} layers, {session.mesh.size} devices",
        seconds=timing.seconds,
        spread_s=timing.spread_s,
        repeats=timing.repeats,
        work=per_token * tokens / session.mesh.size,
        unit="flop",
        note="; ".join(notes),
    )


def _forward(session: Session) -> Callable[[], Any]:
    skeleton = session.skeleton
    weights = jax.jit(
        lambda: skeleton.init(0, session.mesh), out_shardings=skeleton.shardings(session.mesh)
    )()
    batch = random_batch(session)
    function = _steps(session).jit_evaluate(compiler_options(session.platform))
    return lambda: function(weights, batch)


def _train(session: Session) -> Callable[[], Any]:
    state, batch = fresh_state(session), random_batch(session)
    function = _steps(session).jit_train(compiler_options(session.platform))

    def call() -> Any:
        nonlocal state
        state, metrics = function(state, batch)
        return metrics

    return call


def _overflowed(metrics: StepMetrics) -> bool:
    if metrics.stats is None:
        return False
    # Replicated, but most of a mock topology's replicas do not exist.
    rounds = metrics.stats.exchange.overflow_rounds.addressable_data(0)
    return bool(rounds.sum() > 0)


def _steps(session: Session) -> Steps:
    return make_steps(session.skeleton, session.parallel)


def fresh_state(session: Session) -> TrainState:
    """Return an initial training state, made by one program, which a mock topology can run."""
    steps, mesh = _steps(session), session.mesh

    def create() -> TrainState:
        weights = steps.skeleton.init(session.config.seed, mesh)
        zero, opt_state = jnp.zeros((), jnp.int32), steps.optimizer.init(weights.params)
        return TrainState(zero, weights.params, weights.buffers, opt_state, zero, zero)

    shardings = state_shardings(steps.skeleton, steps.optimizer, mesh)
    return jax.jit(create, out_shardings=shardings)()


def random_batch(session: Session) -> Batch:
    """Return uniformly random tokens in one document per sequence, made on the devices."""
    shape = batch_shape(session.config)

    def create() -> Batch:
        ids = jax.random.randint(
            jax.random.key(0), (2, *shape), 0, session.config.model.vocab_size, jnp.int32
        )
        positions = jnp.broadcast_to(jnp.arange(shape[-1], dtype=jnp.int32), shape)
        return Batch(ids[0], ids[1], jnp.ones_like(ids[0]), positions, jnp.ones(shape))

    return jax.jit(create, out_shardings=session.batch_sharding())()
