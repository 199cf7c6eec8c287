"""Speed from a step's time."""

import pytest

from moe_jax.config import Config, override
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.model.flops import flops_per_token
from moe_jax.planner.compile.target import Target
from moe_jax.planner.report.speed import predict

TARGET = Target(gpu_by_name("h100"), hosts=2, devices_per_host=2)
CONFIG = override(Config(), ["train.global_batch=8", "data.sequence_length=100"])
FLOPS = flops_per_token(CONFIG)


@pytest.mark.parametrize(
    ("mode", "tokens", "flops"),
    [
        ("train", 800, FLOPS.total_training),
        ("forward", 800, FLOPS.total_forward),
        # One token per sequence, whatever is computed again to get it.
        ("decode", 8, FLOPS.total_forward),
    ],
)
def test_tokens_and_flops_of_a_step(mode, tokens, flops):
    found = predict(2.0, CONFIG, TARGET, mode)
    assert found.kind == "modelled"
    assert found.tokens_per_s == tokens / 2
    assert found.tflops_per_device == pytest.approx(tokens * flops / 2 / 4 / 1e12)
    assert found.mfu == pytest.approx(found.tflops_per_device * 1e12 / 989.4e12)
