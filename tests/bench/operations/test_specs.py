"""The measured operations: their sizes, that they run, and that their work is what XLA counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training_cases import ONE_DEVICE, small_config

from moe_jax.bench.operations import specs as module
from moe_jax.bench.operations.sizes import sizes_of
from moe_jax.bench.operations.specs import layer_specs
from moe_jax.model.flops import flops_per_token

CONFIGS = {
    "plain": (),
    "gated": ("model.moe.activation=swiglu", "model.attention.kv_heads=1"),
    "windows": ("model.attention.windows=[0, 8]", "data.document_mask=none"),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return small_config(*ONE_DEVICE, "train.global_batch=2", *request.param)


def test_work_of_a_product_is_what_xla_counts(config):
    products = [
        s for s in layer_specs(config, "xla", "blocks") if s.suite == "matmul" and s.unit == "flop"
    ]
    assert len(products) == 10
    for spec in products:
        lowered = jax.jit(spec.function).lower(*spec.arguments())
        assert lowered.compile().cost_analysis()["flops"] == pytest.approx(spec.work), spec.name


def test_products_of_a_layer_add_up_to_the_models_own_count(config):
    """Per token, with as many rows as tokens visit experts; router and logits come on top."""
    sizes, model = sizes_of(config), config.model
    specs = [s for s in layer_specs(config, "xla", "blocks") if s.suite == "matmul" and s.weight]
    visits = sizes.tokens * model.moe.top_k / (sizes.rows * sizes.local_experts)
    layer = 0.0
    for spec in specs:
        if "gradient" not in spec.name:
            layer += spec.weight * spec.work * (visits if "expert" in spec.name else 1)
    router_and_logits = (
        2 * model.d_model * (model.num_layers * model.moe.num_experts + model.vocab_size)
    )
    found = model.num_layers * layer / sizes.tokens + router_and_logits
    assert found == pytest.approx(flops_per_token(config).matmul)


@pytest.mark.parametrize("implementation", ["blocks", "dense"])
def test_grouped_products_do_the_experts_work_in_one_call_each(config, implementation):
    sizes = sizes_of(config)
    grouped = list(module._grouped(config, sizes, implementation))
    plain = module._experts(config, sizes)
    assert sum(s.weight * s.work for s in grouped) == sum(s.weight * s.work for s in plain)
    assert {s.suite for s in grouped} == {"matmul_grouped"}
    for spec in grouped:
        for result in jax.tree.leaves(jax.jit(spec.function)(*spec.arguments())):
            assert np.isfinite(result).all(), spec.name
            assert float(jnp.abs(result).max()) > 0, spec.name


def test_only_kernels_are_measured_as_grouped(config):
    def suites(grouped):
        return {s.suite for s in layer_specs(config, "xla", grouped)}

    assert suites("mosaic") - suites("blocks") == {"matmul_grouped"}


def test_attention_counts_what_the_causal_mask_leaves(config):
    specs = layer_specs(config, "xla", "blocks")
    forward = [s.work for s in specs if s.suite == "attention_forward"]
    backward = [s.work for s in specs if s.suite == "attention_backward"]
    layers = config.model.num_layers / len(config.model.attention.windows)
    total = flops_per_token(config).attention * sizes_of(config).tokens
    assert layers * sum(forward) == pytest.approx(total)
    assert backward == [2 * work for work in forward]


@pytest.mark.slow
def test_every_operation_runs_on_random_arguments(config):
    for spec in layer_specs(config, "xla", "blocks"):
        results = jax.tree.leaves(jax.jit(spec.function)(*spec.arguments()))
        assert results
        for result in results:
            assert np.isfinite(result).all(), spec.name
            assert float(jnp.abs(result).max()) > 0, spec.name


@pytest.mark.slow
def test_backward_alone_returns_the_gradients_of_forward():
    config = small_config(*ONE_DEVICE, "train.global_batch=2")
    forward, backward = (
        next(s for s in layer_specs(config, "xla", "blocks") if s.suite == f"attention_{which}")
        for which in ("forward", "backward")
    )
    pull, grad = backward.arguments()
    keys = jax.random.split(jax.random.key(0), 4)
    drawn = [
        jax.random.normal(k, shape, dtype)
        for k, (shape, dtype) in zip(keys, backward.draw, strict=True)
    ]
    wanted = jax.grad(lambda *qkv: (forward.function(*qkv) * drawn[3]).sum(), (0, 1, 2))(*drawn[:3])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        backward.function(pull, grad),
        wanted,
    )


def test_gathers_move_every_choice_of_random_routing():
    """Else their bytes would be counted too high."""
    config = small_config(*ONE_DEVICE, "train.global_batch=2", "exchange.capacity_factor=8")
    sizes = sizes_of(config)
    to_rows = next(s for s in layer_specs(config, "xla", "blocks") if s.name.startswith("to_rows"))
    rows = to_rows.function(*to_rows.arguments())
    filled = int((jnp.abs(rows).max(axis=-1) > 0).sum())
    assert filled == sizes.tokens * config.model.moe.top_k
    row_bytes = config.model.d_model * rows.dtype.itemsize
    assert to_rows.work == (filled + rows.shape[0]) * row_bytes
