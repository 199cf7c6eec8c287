"""Our real training step and torch's compute the same, on the same weights and tokens."""

import pytest

from moe_jax.bench.rivals.sample import excess
from moe_jax.bench.rivals.steps.ours import our_step
from moe_jax.bench.rivals.steps.problem import step_config
from moe_jax.bench.rivals.steps.torch_step import float32_step

SMALL = ["model.d_model=32", "model.moe.d_ff=16", "model.vocab_size=50"]


@pytest.mark.slow
@pytest.mark.parametrize("qk_norm", ["all_heads", "head", "none"])
def test_our_first_steps_are_those_of_torch_in_float32(qk_norm):
    heads = ["model.attention.head_dim=8", "model.attention.kv_heads=2"]
    changes = [*SMALL, *heads, f"model.attention.qk_norm={qk_norm}"]
    config = step_config("tiny", 2, 2, 16, "float32", changes)
    run = our_step(config)
    values = run.values()
    _, error, bound = excess(values, float32_step(config, "cpu").values(), "float32")
    assert error < bound / 10
    assert values["fall"][0] > 0.001
    assert run.counts()["dropped"] == 0
