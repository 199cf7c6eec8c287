"""What a training step leaves on the devices for its user; a host's report is `step_report.py`."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from moe_jax.moe.layer import MoeStats


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """What a step reports. Scalars are float32; `stats` has leading dimension [moe layers]."""

    loss: Float[Array, ""]
    auxiliary_loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    #: 1 where the step was skipped because something was not finite.
    skipped: Float[Array, ""]
    stats: MoeStats | None
