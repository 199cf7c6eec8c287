"""What is looked at of a training step: its loss, its gradients' norm, and that it learns."""

import numpy as np

from moe_jax.bench.rivals.steps.first_steps import two_steps


def test_the_fall_is_from_the_first_step_to_the_second():
    losses = iter([10.0, 7.5])

    def call():
        return {"loss": np.array(next(losses)), "grad_norm": np.array(3.0)}

    seen = {name: value.tolist() for name, value in two_steps(call).items()}
    assert seen == {"loss": [10.0], "grad_norm": [3.0], "fall": [2.5]}
