"""What a device computes in a layer, by hand at rates of 1."""

import pytest
from support.planner.layer_models import MOE, layer_model

from moe_jax.hardware.rates import Rates
from moe_jax.planner.modelled.compute import BACKWARD, Seconds

#: Products take no time beside memory, or the other way round.
SLOW_MATMUL = Rates(1.0, 1.0, 1.0, 1.0, 1e30, 1e30, "products alone")
SLOW_MEMORY = Rates(1e30, 1e30, 1e30, 1e30, 1.0, 1.0, "memory alone")
TOKENS, D, F, ROWS = 80_000, 4096, 16_384, 8 * 16 * 1563


def compute(*changes, mode="train", rates=SLOW_MATMUL):
    return layer_model(*changes, mode=mode, rates=rates).compute


def test_seconds_add_up_and_scale_part_by_part():
    both = Seconds(matmul=1.0, exposed=0.5) + Seconds(attention=2.0, exchange=9.0, imbalance=0.25)
    assert (both.compute, both.total) == (3.0, 3.75)
    assert both * 2 == Seconds(2.0, 4.0, exchange=18.0, exposed=1.0, imbalance=0.5)


def test_experts_multiply_the_rows_of_a_round_empty_ones_too():
    assert compute().experts(MOE).matmul == 2 * ROWS * 2 * D * F
    wide = compute("exchange.capacity_factor=2.5").experts(MOE).matmul
    assert wide == pytest.approx(2 * compute().experts(MOE).matmul, rel=1e-3)


def test_dense_products_are_the_projections_and_the_router():
    assert compute().dense(MOE).matmul == 2 * TOKENS * (4 * D * 32 * 128 + 16 * D)
    # The tensor axis splits the matrices and, with them, the tokens of the router.
    split = compute("mesh.expert=8", "mesh.tensor=2").dense(MOE).matmul
    assert split == pytest.approx(compute().dense(MOE).matmul)


def test_backward_multiplies_twice_and_attends_at_a_rate_of_its_own():
    forward, backward = compute().forward(MOE), compute().backward(MOE)
    assert backward.matmul == BACKWARD * forward.matmul
    slow = Rates(1.0, 1.0, 1.0, 0.5, 1e30, 1e30, "attention backward at half the rate")
    assert compute(rates=slow).backward(MOE).attention == 2 * BACKWARD * forward.attention


def test_a_product_takes_at_least_as_long_as_reading_its_weights():
    """In decode 8 tokens meet whole weights: bytes of bfloat16 at one a second."""
    found = compute(mode="decode", rates=SLOW_MEMORY)
    assert found.experts(MOE).matmul == 2 * 2 * D * F
    # Keys and values of all of the 8 sequences' tokens.
    assert found.forward(MOE).attention == 2 * found.share.cache_values(MOE)


def test_the_optimiser_reads_and_writes_its_part():
    found = compute(rates=SLOW_MEMORY)
    elements = found.share.count(found.share.optimizer_state)
    # Gradient and written parameter, two bfloat16 moments and a float32 copy, both ways.
    assert found.optimizer() == elements * (2 * 2 + 2 * 2 * 2 + 2 * 4)


def test_logits_are_computed_once_in_training_too():
    """Products forward and both ways back; float32 logits four times, their gradient once."""
    forward, train = (compute(mode=mode).head() for mode in ("forward", "train"))
    assert forward.matmul == 2 * TOKENS * 32_000 * D
    assert train.matmul == 3 * forward.matmul
    logits = TOKENS * 32_000
    forward, train = (compute(mode=m, rates=SLOW_MEMORY).head() for m in ("forward", "train"))
    assert (forward.other, train.other) == (3 * 4 * logits, (4 * 4 + 2) * logits)
