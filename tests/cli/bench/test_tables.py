"""Measurements as tables: every figure beside its bound, or beside the first."""

import dataclasses

import pytest

from moe_jax.bench.decode.times import DecodeTime, DecodeTimes
from moe_jax.bench.programs.layouts import LayoutTime, LayoutTimes
from moe_jax.cli.bench.tables import (
    collective_table,
    decode_line,
    decode_table,
    layout_line,
    layout_table,
    measurement_table,
    rate_table,
    title,
    wire_bytes,
)
from moe_jax.hardware.calibration import CollectiveTime, Measurement, recorded
from moe_jax.hardware.gpus import gpu_by_name


def cells(table):
    return [list(column.cells) for column in table.columns]


MATMUL = Measurement("matmul", "expert up", 4e-3, 4e-5, 9, 2e12, "flop")


def test_a_measurement_stands_beside_the_peak_of_what_it_uses():
    gather = dataclasses.replace(MATMUL, suite="gather", unit="byte", work=4e9)
    table = cells(measurement_table([MATMUL, gather], gpu_by_name("h100")))
    assert table[1:6] == [
        ["4", "4"],
        ["1.0%", "1.0%"],
        ["500 TFLOP/s", "1000 GB/s"],
        ["989.4 TFLOP/s", "3352 GB/s"],
        ["50.5%", "29.8%"],
    ]


def test_an_unknown_chip_has_an_unknown_bound():
    assert cells(measurement_table([MATMUL], None))[4:6] == [["unknown"], [""]]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-to-all", 7), ("all-gather", 56), ("all-reduce", 14), ("reduce-scatter", 7)],
)
def test_a_collective_stands_beside_the_link(kind, sent):
    """Bytes that one of 8 devices must send, of an operand of 8."""
    time = CollectiveTime(kind, 8, 1, 8, 1e-9)
    assert wire_bytes(time) == pytest.approx(sent)
    table = cells(collective_table([time], 450e9))
    assert table[3:] == [[f"{sent} GB/s"], ["450 GB/s"]]


def test_titles_say_what_was_measured():
    assert title(MATMUL) == "matmul: expert up"
    assert title(CollectiveTime("all-to-all", 8, 1, 1024, 1e-9)) == (
        "all-to-all 1024 bytes, 8 devices"
    )


def test_rates_of_a_calibration_are_those_that_a_plan_uses():
    ours = recorded("h100")
    table = rate_table(ours)
    names, rates = cells(table)
    attention = ["attention_forward", "attention_backward"]
    assert names == ["matmul", *attention, "matmul_grouped", "gather", "memory"]
    assert rates[0] == f"{ours.matmul_flops_per_s / 1e12:.4g} TFLOP/s"
    assert table.title == f"Calibration of h100, {ours.date}"


def test_layouts_stand_beside_the_first_of_their_mode():
    times = (
        LayoutTime("a", "expert 8", "forward", 2.0, 0.1, 100.0, 4_000_000),
        LayoutTime("b", "tensor 8", "forward", 4.0, 0.1, 50.0, 8_000_000),
    )
    result = LayoutTimes("cpu", 2, "2026-01-01", {"jax": "1"}, (), 3, times)
    table = cells(layout_table(result))
    assert table[4] == ["5.0%", "2.5%"]
    assert table[6] == ["1.00 x", "0.50 x"]
    assert table[7:] == [["4 M", "8 M"], ["1.00 x", "2.00 x"]]
    assert layout_line(times[1]) == "b, tensor 8, forward: 50 tokens/s"


def test_ways_to_generate_stand_beside_the_cache():
    times = (
        DecodeTime("cache", 8, 0.1, 0.01, 0.5),
        DecodeTime("full forward", 8, 0.4, 0.01, 0.0),
    )
    result = DecodeTimes(
        *("tiny", "float32", "expert 8", "cpu", 2, "2026-01-01", {"jax": "1"}),
        *(16, 10, 26, 3, {}, times),
    )
    table = cells(decode_table(result))
    assert table[2] == ["80", "20"]
    assert table[4:] == [["1.00 x", "0.25 x"], ["500", ""]]
    assert decode_line(times[1]) == "batch 8, full forward: 20 tokens/s"
