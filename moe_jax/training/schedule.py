"""Learning rate over steps, from optax's pieces."""

import jax
import optax

from moe_jax.config.schema import OptimizerConfig, ScheduleConfig
from moe_jax.dtypes import library_promotion


def make_schedule(
    schedule: ScheduleConfig, optimizer: OptimizerConfig, steps: int
) -> optax.Schedule:
    """Return step -> learning rate: linear warm-up, then cosine, WSD or constant.

    WSD (warm-up, stable, decay: Hu et al., 2024) stays at the peak and decays linearly over the
    last `decay_steps`.

    Args:
        schedule: which of them, and its lengths in steps.
        optimizer: gives the peak.
        steps: of the run.
    """
    inner = _pieces(schedule, optimizer, steps)

    def learning_rate(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        # optax divides integer steps; our own code is held to strict promotion.
        with library_promotion():
            return inner(step)

    return learning_rate


def _pieces(schedule: ScheduleConfig, optimizer: OptimizerConfig, steps: int) -> optax.Schedule:
    peak = optimizer.learning_rate
    final = peak * schedule.final_fraction
    after = steps - schedule.warmup_steps
    if schedule.kind == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(after, 1), schedule.final_fraction)
    elif schedule.kind == "wsd":
        decay = optax.linear_schedule(peak, final, schedule.decay_steps)
        stable = after - schedule.decay_steps
        rest = optax.join_schedules([optax.constant_schedule(peak), decay], [stable])
    else:
        rest = optax.constant_schedule(peak)
    if not schedule.warmup_steps:
        return rest
    # The first step already moves: it uses 1 / warmup_steps of the peak, not 0.
    first = peak / schedule.warmup_steps
    warmup = optax.linear_schedule(first, peak, max(schedule.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, rest], [schedule.warmup_steps])
