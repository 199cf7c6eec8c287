"""The torch model: causal, its loss that of a uniform guess at first, and one graph."""

import math

import pytest
import torch

from moe_jax.bench.rivals.layers import torch_moe
from moe_jax.bench.rivals.steps.problem import step_config
from moe_jax.bench.rivals.steps.torch_model import TorchModel
from moe_jax.bench.rivals.steps.torch_weights import fill_plain


@pytest.fixture
def model():
    config = step_config("tiny", 2, 2, 16, "float32", ["model.vocab_size=50"]).model
    model = TorchModel(config, torch.float32)
    fill_plain(model, config, "cpu")
    return model


def test_a_fresh_models_loss_is_about_that_of_a_guess(model):
    tokens = torch.arange(32).reshape(2, 16)
    assert model(tokens, tokens + 1).item() == pytest.approx(math.log(50), rel=0.05)


def test_losses_before_a_changed_token_stay(model):
    tokens = torch.arange(16)[None]
    other = tokens.clone()
    other[0, 8] = 40
    with torch.no_grad():
        hidden = [model._hidden(ids) for ids in (tokens, other)]
    torch.testing.assert_close(hidden[0][0, :8], hidden[1][0, :8])
    assert (hidden[0][0, 8:] - hidden[1][0, 8:]).abs().max() > 1e-3


@pytest.mark.slow
# Of torch, about what its own compiler does.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_graph_holds_the_model_with_the_grouped_product(model, monkeypatch):
    def grouped(rows, w_eoi, ends):
        return torch._grouped_mm(rows, w_eoi.transpose(-2, -1), offs=ends)

    model.dtype = torch.bfloat16
    tokens = torch.arange(32).reshape(2, 16)
    wanted = model(tokens, tokens)
    monkeypatch.setattr(torch_moe, "_product", grouped)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, tokens), wanted, rtol=1e-2, atol=1e-2)
