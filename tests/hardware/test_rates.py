"""Rates of a chip: a calibration's, or stated shares of what is on paper."""

import dataclasses

import pytest

from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.hardware.rates import rates_for

MEASURED = Calibration(
    "h200", "1 H200", "2026-11-23", {"jax": "0.10.2"}, 7e14, 5e14, 4e14, 3e12, 4e12
)


def test_a_calibration_replaces_every_rate():
    rates = rates_for(gpu_by_name("h200"), MEASURED)
    assert rates.matmul_flops_per_s == 7e14
    assert (rates.attention_forward_flops_per_s, rates.attention_backward_flops_per_s) == (
        5e14,
        4e14,
    )
    assert (rates.gather_bytes_per_s, rates.memory_bytes_per_s) == (3e12, 4e12)
    assert "measured on 1 H200, 2026-11-23" in rates.source


def test_a_calibration_without_grouped_matmuls_takes_their_share_of_the_peak_and_says_so():
    h200 = gpu_by_name("h200")
    rates = rates_for(h200, MEASURED)
    assert rates.grouped_flops_per_s == pytest.approx(0.7 * h200.peak_bf16_flops)
    assert rates.source.endswith("grouped matmuls not measured: 70% of the BF16 peak")
    rates = rates_for(h200, dataclasses.replace(MEASURED, grouped_flops_per_s=6e14))
    assert rates.grouped_flops_per_s == 6e14
    assert "not measured" not in rates.source


@pytest.mark.parametrize(("flops", "nbytes", "time_s"), [(1e15, 1, 2), (1, 1e12, 4)])
def test_a_grouped_matmul_waits_for_its_arithmetic_or_its_memory(flops, nbytes, time_s):
    rates = rates_for(gpu_by_name("h100"))
    rates = dataclasses.replace(rates, grouped_flops_per_s=5e14, memory_bytes_per_s=2.5e11)
    assert rates.grouped_s(flops, nbytes) == time_s


def test_a_calibration_of_another_chip_is_refused():
    with pytest.raises(ValueError, match="measured on 'h200' and the target is 'h100'"):
        rates_for(gpu_by_name("h100"), MEASURED)


def test_without_one_the_best_matmuls_and_attention_of_an_h100_are_assumed():
    rates = rates_for(gpu_by_name("h100"))
    assert 780e12 <= rates.matmul_flops_per_s <= 795e12
    assert rates.attention_forward_flops_per_s == pytest.approx(534e12, rel=0.01)
    assert "not measured" in rates.source
