"""The torch module: its own gradients, and that one graph holds all of it."""

import pytest
import torch

from moe_jax.bench.rivals.layers import torch_moe
from moe_jax.bench.rivals.layers.torch_moe import TorchMoe


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = TorchMoe(4, 2, 16, 8, normalize=False)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def by_hand(module, x_td):
    probs_te = torch.softmax(x_td @ module.router.t(), -1)
    weights_tk, chosen_tk = probs_te.topk(2)
    y_td = torch.zeros_like(x_td)
    for k in range(2):
        gate_up = torch.einsum("td,tfd->tf", x_td, module.gate_up[chosen_tk[:, k]])
        gate, up = gate_up.chunk(2, -1)
        hidden = torch.nn.functional.silu(gate) * up
        out = torch.einsum("tf,tdf->td", hidden, module.down[chosen_tk[:, k]])
        y_td = y_td + weights_tk[:, k, None] * out
    return y_td


def both(forward, module, x_td):
    y_td = forward(x_td)
    return y_td, *torch.autograd.grad((y_td**2).sum(), (x_td, *module.parameters()))


def test_values_and_gradients_are_those_of_the_definition(module):
    x_td = torch.randn(30, 16, requires_grad=True)
    wanted = both(lambda x: by_hand(module, x), module, x_td)
    for actual, want in zip(both(module, module, x_td), wanted, strict=True):
        torch.testing.assert_close(actual, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_graph_holds_the_layer_with_the_grouped_product(module, monkeypatch):
    x_td = torch.randn(30, 16, dtype=torch.bfloat16, requires_grad=True)
    wanted = both(module, module, x_td)

    def grouped(rows, w_eoi, ends):
        return torch._grouped_mm(rows, w_eoi.transpose(-2, -1), offs=ends)

    monkeypatch.setattr(torch_moe, "_product", grouped)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for actual, want in zip(both(compiled, module, x_td), wanted, strict=True):
        torch.testing.assert_close(actual, want, rtol=2e-2, atol=2e-2)
