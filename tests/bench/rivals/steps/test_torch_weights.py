"""Both torch models hold the same numbers."""

import torch

from moe_jax.bench.rivals.steps.problem import step_config
from moe_jax.bench.rivals.steps.torch_step import plain_step, transformers_step


def test_plain_and_transformers_models_lose_the_same():
    config = step_config("tiny", 2, 2, 16, "float32", ["model.vocab_size=50"])
    ours, theirs = (
        run.call() for run in (plain_step(config, "cpu"), transformers_step(config, "cpu", "eager"))
    )
    torch.testing.assert_close(ours["loss"], theirs["loss"])
    torch.testing.assert_close(ours["grad_norm"], theirs["grad_norm"])
