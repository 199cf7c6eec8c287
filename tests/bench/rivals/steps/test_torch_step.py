"""Torch's steps: a sequence at a time is the whole batch, and gradients are clipped."""

import pytest
import torch

from moe_jax.bench.rivals.sample import excess
from moe_jax.bench.rivals.steps.problem import step_config
from moe_jax.bench.rivals.steps.torch_step import _clipped_step, float32_step, plain_step

SETTINGS = ["model.vocab_size=50"]


def test_a_sequence_at_a_time_is_the_whole_batch():
    config = step_config("tiny", 1, 3, 16, "float32", SETTINGS)
    whole, parts = (make(config, "cpu").values() for make in (plain_step, float32_step))
    _, error, bound = excess(whole, parts, "float32")
    assert error < bound / 10


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_gradients_are_clipped_as_by_torchs_own_function(limit):
    torch.manual_seed(0)
    start, grad = torch.randn(6), torch.randn(6)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    ours.grad, theirs.grad = grad.clone(), grad.clone()
    # So large an eps makes a step as long as its gradient: clipping shows.
    optimizers = [torch.optim.AdamW([p], eps=1.0, fused=True) for p in (ours, theirs)]
    norm = _clipped_step(optimizers[0], limit)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_([theirs], limit))
    optimizers[1].step()
    torch.testing.assert_close(ours, theirs)
    assert ours.grad is None
