"""The layer in torch, compiled; and transformers' block, as it comes."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from moe_jax.bench.rivals.hashed import torch_maker
from moe_jax.bench.rivals.layers.inputs import torch_inputs
from moe_jax.bench.rivals.layers.torch_moe import TorchMoe
from moe_jax.bench.rivals.problem import LayerProblem
from moe_jax.bench.rivals.trial import TorchTrial


def plain_layer(problem: LayerProblem, routing: str, device: str) -> TorchTrial:
    """Return our plain module under `torch.compile`; not compiled without a GPU.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
        device: "cuda" or "cpu".
    """
    with torch.device("meta"):
        module = TorchMoe(problem.experts, problem.top_k, problem.d, problem.f, problem.normalize)
    module = module.to_empty(device=device).to(getattr(torch, problem.dtype))
    fill(problem, device, module.router, module.gate_up, module.down)
    forward = torch.compile(module, fullgraph=True) if device == "cuda" else module
    named = {"router": module.router, "gate_up": module.gate_up, "down": module.down}
    return TorchTrial(_call(problem, routing, device, forward, named))


def transformers_layer(
    problem: LayerProblem, routing: str, device: str, experts: Literal["eager", "grouped_mm"]
) -> TorchTrial:
    """Return transformers' OLMoE block, whose code its other MoE models repeat.

    Args:
        problem: sizes and dtype.
        routing: who goes where.
        device: "cuda" or "cpu".
        experts: transformers' name of how experts are computed.
    """
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

    config: Any = OlmoeConfig(
        hidden_size=problem.d,
        intermediate_size=problem.f,
        num_experts=problem.experts,
        num_experts_per_tok=problem.top_k,
        norm_topk_prob=problem.normalize,
        hidden_act="silu",
    )
    # Keyword arguments that its base class takes are not in its signature.
    config._experts_implementation = experts
    with torch.device("meta"):
        block: Any = OlmoeSparseMoeBlock(config)
    block = block.to_empty(device=device).to(getattr(torch, problem.dtype))
    weights = (block.gate.weight, block.experts.gate_up_proj, block.experts.down_proj)
    fill(problem, device, *weights)
    named: dict[str, Any] = dict(zip(("router", "gate_up", "down"), weights, strict=True))
    return TorchTrial(_call(problem, routing, device, lambda x_td: block(x_td[None])[0], named))


def fill(problem: LayerProblem, device: str, router: Any, gate_up: Any, down: Any) -> None:
    """Put the problem's weights into a module's parameters.

    Args:
        problem: whose weights.
        device: where they are made.
        router: [experts, d].
        gate_up: [experts, 2 f, d], gate first.
        down: [experts, d, f].
    """
    weights = problem.weights(torch_maker(problem.dtype, device))
    with torch.no_grad():
        router.copy_(torch.from_numpy(problem.router()).t())
        gate_up[:, : problem.f].copy_(weights["gate_edf"].transpose(1, 2))
        gate_up[:, problem.f :].copy_(weights["up_edf"].transpose(1, 2))
        down.copy_(weights["down_efd"].transpose(1, 2))


def _call(
    problem: LayerProblem,
    routing: str,
    device: str,
    forward: Callable[[Any], Any],
    named: dict[str, Any],
) -> Callable[[], dict[str, Any]]:
    x_td, dy_td = torch_inputs(problem, routing, device)

    def call() -> dict[str, Any]:
        y_td = forward(x_td)
        dx_td, drouter, dgate_up, ddown = torch.autograd.grad(
            y_td, (x_td, named["router"], named["gate_up"], named["down"]), dy_td
        )
        dgate, dup = dgate_up.transpose(1, 2).chunk(2, dim=-1)
        return {
            "y": y_td.detach(),
            "dx": dx_td,
            "drouter": drouter.t(),
            "dgate": dgate,
            "dup": dup,
            "ddown": ddown.transpose(1, 2),
        }

    return call
