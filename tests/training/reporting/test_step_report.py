"""The record's keys are stable, the line is short and says what a reader looks for."""

import dataclasses
import json
import math

import pytest
from support.report_cases import make_metrics, make_step_report

from moe_jax.training.reporting.device_memory import Memory
from moe_jax.training.reporting.step_report import duration


def test_record_sums_layers_and_takes_the_worst_imbalance():
    record = make_step_report().to_record()
    assert record["moe.load_imbalance"] == 2.5
    assert record["moe.rows_sent"] == 506
    assert record["moe.rows_dropped"] == 6
    assert record["moe.off_device_share"] == 0.625
    assert record["layers.load_imbalance"] == [1.0, 2.5]
    assert (record["memory_gib"], record["memory_kind"]) == (1.25, "process")
    assert json.loads(json.dumps(record)) == record


def test_record_has_the_same_keys_without_moe_layers():
    dense = make_step_report(metrics=dataclasses.replace(make_metrics(), stats=None)).to_record()
    assert dense.keys() == make_step_report().to_record().keys()
    assert dense["moe.rows_sent"] is None
    assert dense["layers.rows_sent"] == []


def test_line_holds_what_a_reader_looks_for():
    line = make_step_report(metrics=make_metrics(skipped=1.0), peak_flops=1e12).to_line()
    for part in ("step 10/100", "loss 2.5000", "grad 1.5", "lr 3.00e-04", "512 tok/s", "0.5 s"):
        assert part in line
    for part in ("% MFU", "1.25 GiB (process)", "load 2.50x", "drop 6", "overflow 1"):
        assert part in line
    assert line.endswith("skipped 2 | ETA 22s")


def test_line_of_extreme_numbers_stays_short():
    report = dataclasses.replace(
        make_step_report(999_999, make_metrics(loss=math.nan)),
        total=1_000_000,
        tokens_per_second=999_999_999.0,
        grad_norm=1.234e-12,
        tflops_per_device=1234.5,
        mfu=0.4567,
        memory=Memory(123.4567, "process peak"),
        seconds=123.456,
        skipped_total=99_999,
        eta_seconds=8e6,
    )
    line = report.to_line()
    assert "loss nan" in line
    assert "1G tok/s" in line
    assert len(line) < 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m00s"), (725, "12m05s"), (11220, "3h07m"), (187200, "2d04h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
