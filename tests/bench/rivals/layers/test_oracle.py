"""The float32 layer against the definition, written out token by token."""

import numpy as np
import pytest

from moe_jax.bench.rivals.hashed import jax_maker
from moe_jax.bench.rivals.layers import oracle as module
from moe_jax.bench.rivals.layers.inputs import jax_inputs
from moe_jax.bench.rivals.problem import layer_problem


@pytest.mark.parametrize("normalize", [True, False])
def test_the_sum_over_chosen_experts_token_by_token(normalize):
    from dataclasses import replace

    problem = replace(layer_problem("tiny", 6, "float32"), normalize=normalize)
    call = module.oracle(problem, "random").call()
    weights = {n: np.asarray(a) for n, a in problem.weights(jax_maker("float32")).items()}
    x_td = np.asarray(jax_inputs(problem, "random")[0], np.float64)
    for t, chosen in enumerate(problem.choices("random")):
        probs = np.exp(problem.logits("random")[t].astype(np.float64))
        probs /= probs[chosen].sum() if normalize else probs.sum()
        wanted = np.zeros(problem.d)
        for e in chosen:
            gate, up = x_td[t] @ weights["gate_edf"][e], x_td[t] @ weights["up_edf"][e]
            wanted += probs[e] * ((gate / (1 + np.exp(-gate)) * up) @ weights["down_efd"][e])
        np.testing.assert_allclose(call["y"][t], wanted, rtol=1e-4, atol=1e-5)
