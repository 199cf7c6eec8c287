"""Tokens are the same in both frameworks, and carry their routing."""

import numpy as np

from moe_jax.bench.rivals.layers.inputs import jax_inputs, torch_inputs
from moe_jax.bench.rivals.problem import layer_problem


def test_both_frameworks_get_the_same_tokens():
    problem = layer_problem("tiny", 20, "bfloat16")
    ours = [a.astype("float32") for a in jax_inputs(problem, "random")]
    theirs = [a.detach().float().numpy() for a in torch_inputs(problem, "random", "cpu")]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(ours[0][:, : problem.experts], problem.logits("random"))
