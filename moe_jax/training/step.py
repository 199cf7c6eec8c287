"""One training step as a pure function of (state, batch); also evaluation, and the plain forward.

Compiling these for a cluster that is not there uses the same functions.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from moe_jax.config.schema import Config
from moe_jax.data.batch import Batch
from moe_jax.model.loss import cross_entropy_sum
from moe_jax.model.parallel import Parallel
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Arrays, Weights
from moe_jax.moe.balance import auxiliary_loss, updated_bias
from moe_jax.moe.layer import MoeStats
from moe_jax.training.optimizer import apply_updates, clipped, make_optimizer
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.schedule import make_schedule
from moe_jax.training.state import TrainState, state_shardings

CompilerOptions = dict[str, bool | int]


@dataclass(frozen=True)
class Steps:
    """The functions of a run, not yet compiled."""

    skeleton: Skeleton
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    parallel: Parallel

    @property
    def config(self) -> Config:
        """The resolved config of the run."""
        return self.skeleton.config

    def jit_train(self, options: CompilerOptions | None = None) -> Any:
        """Return `train` to be compiled once: the state is donated, metrics are replicated."""
        mesh = self.parallel.mesh
        return jax.jit(
            self.train,
            donate_argnums=0,
            out_shardings=(
                state_shardings(self.skeleton, self.optimizer, mesh),
                NamedSharding(mesh, PartitionSpec()),
            ),
            compiler_options=options,
        )

    def jit_evaluate(self, options: CompilerOptions | None = None) -> Any:
        """Return `evaluate` to be compiled once, with replicated results."""
        replicated = NamedSharding(self.parallel.mesh, PartitionSpec())
        return jax.jit(self.evaluate, out_shardings=replicated, compiler_options=options)

    def train(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """Average gradients over microbatches, update, and skip what is not finite."""
        (losses, stats), grads = self._gradients(state.weights, batch)
        # From here to the new parameters, every device works on its part of the optimiser state.
        beside = self.skeleton.optimizer_shardings(self.parallel.mesh)
        grads = jax.lax.with_sharding_constraint(grads, beside)
        grad_norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
        finite = jnp.isfinite(losses[0]) & jnp.isfinite(losses[1]) & jnp.isfinite(grad_norm)
        grads = clipped(grads, grad_norm, self.config.optimizer.clip_norm)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = apply_updates(state.params, updates)
        params = jax.lax.with_sharding_constraint(params, beside)
        new = (Weights(params, self._moved(state.buffers, stats)), opt_state)
        old = (state.weights, state.opt_state)
        kept, kept_opt = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        bad = 1 - finite.astype(jnp.int32)
        metrics = StepMetrics(
            loss=losses[0],
            auxiliary_loss=losses[1],
            grad_norm=grad_norm,
            learning_rate=jnp.float32(self.schedule(state.step - state.skipped)),
            skipped=bad.astype(jnp.float32),
            stats=stats,
        )
        state = TrainState(
            step=state.step + 1,
            params=kept.params,
            buffers=kept.buffers,
            opt_state=kept_opt,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
            skipped=state.skipped + bad,
        )
        return state, metrics

    def evaluate(self, weights: Weights, batch: Batch) -> tuple[Array, Array]:
        """Return the sum of weighted cross-entropies in nats, and of weights: forward only."""

        def micro(carry: Array, part: Batch) -> tuple[Array, None]:
            return carry + self._forward(weights, part, remat="none")[0], None

        if batch.weights.shape[0] == 1:
            nll = self._forward(weights, _first(batch), remat="none")[0]
        else:
            nll = jax.lax.scan(micro, jnp.zeros((), jnp.float32), batch)[0]
        return nll, batch.weights.sum()

    def _gradients(self, weights: Weights, batch: Batch) -> Any:
        """Return ((cross-entropy, auxiliary loss), stats) and the parameters' gradients.

        Cross-entropy is normalised by the weight of the whole batch, so that microbatches add up
        to exactly the loss of one large batch; balance losses are those of each microbatch.

        Args:
            weights: gradients are those of the parameters only.
            batch: leading dimension [microbatches].
        """
        total, parts = batch.weights.sum(), batch.weights.shape[0]

        def objective(params: Arrays, part: Batch) -> tuple[Array, Any]:
            moved = replace(weights, params=params)
            nll, auxiliary, stats = self._forward(moved, part, remat=self.config.train.remat)
            losses = (nll / total, auxiliary / parts)
            return losses[0] + losses[1], (losses, stats)

        gradient = jax.grad(objective, has_aux=True)
        first = _first(batch)
        if parts == 1:
            grads, aux = gradient(weights.params, first)
            return aux, grads

        def accumulate(carry: Any, part: Batch) -> tuple[Any, None]:
            grads, aux = gradient(weights.params, part)
            # Of many bfloat16 gradients, the last ones would no longer move a bfloat16 sum.
            grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
            return jax.tree.map(jnp.add, carry, (aux, grads)), None

        grads, aux = jax.eval_shape(gradient, weights.params, first)
        zeros = (
            jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), aux),
            jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), grads),
        )
        return jax.lax.scan(accumulate, zeros, batch)[0]

    def _forward(
        self, weights: Weights, part: Batch, remat: Any
    ) -> tuple[Array, Array, MoeStats | None]:
        """Return (sum of weighted losses, auxiliary loss, counts) of one microbatch."""
        model = self.skeleton.merge(weights)
        streams, stats = model.hidden(
            part.tokens, part.positions, part.segments, self.parallel, remat
        )
        chunk = self.config.train.loss_chunk
        nll = cross_entropy_sum(model, streams, part.targets, part.weights, self.parallel, chunk)
        if stats is None:
            return nll, jnp.zeros((), jnp.float32), None
        return nll, auxiliary_loss(stats.balance, self.config.model.moe.router), stats

    def _moved(self, buffers: Arrays, stats: MoeStats | None) -> Arrays:
        """Return the selection biases after the auxiliary-loss-free update."""
        rate = self.config.model.moe.router.bias_update_rate
        if not rate or stats is None:
            return buffers
        rows = self.skeleton.buffer_rows
        load = stats.balance.load_e
        return {n: updated_bias(b, load[jnp.array(rows[n])], rate) for n, b in buffers.items()}


def _first(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: x[0], batch)


def make_steps(skeleton: Skeleton, parallel: Parallel) -> Steps:
    """Return the functions of a checked config, which the skeleton holds."""
    config = skeleton.config
    schedule = make_schedule(config.schedule, config.optimizer, config.train.steps)
    return Steps(skeleton, make_optimizer(config, skeleton.variables), schedule, parallel)
