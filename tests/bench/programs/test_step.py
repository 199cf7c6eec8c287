"""Whole programs on emulated devices: what is counted, and what the note says."""

import pytest
from support.training_cases import ONE_DEVICE, session_on_first_devices, small_config

from moe_jax.bench.programs.step import COMPUTE_ONLY, measure_step
from moe_jax.model.flops import flops_per_token

TINY = (*ONE_DEVICE, "model.num_layers=1", "train.global_batch=2", "exchange.overflow=drop")


@pytest.mark.slow
def test_forward_of_emulated_devices():
    session = session_on_first_devices(small_config(*TINY))
    found = measure_step(session, "forward", repeats=2)
    flops = flops_per_token(session.config).total_forward
    assert found.work == pytest.approx(flops * 2 * 32)
    assert (found.suite, found.unit, found.repeats) == ("program", "flop", 2)
    assert found.name == "quickstart forward, 1 layers, 1 devices"
    assert found.note == "emulated devices share cores"


@pytest.mark.slow
def test_training_on_a_mock_topology_with_overflow_says_so():
    tight = (
        "mesh.expert=2",
        "exchange.transport=all_to_all",
        "exchange.overflow=rounds",
        "exchange.capacity_factor=0.25",
    )
    session = session_on_first_devices(small_config(*TINY, *tight))
    found = measure_step(session, "train", repeats=2, mock=True)
    flops = flops_per_token(session.config).total_training
    assert found.work == pytest.approx(flops * 32)
    assert found.note.startswith(COMPUTE_ONLY)
    assert found.note.endswith("overflow rounds ran")
