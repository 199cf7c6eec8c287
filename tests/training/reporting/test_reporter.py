"""Rates, shares and durations of a step, against hand-made counts and a hand-made clock."""

from types import SimpleNamespace

import jax
import pytest
from support.report_cases import CONFIG, make_metrics, make_step_report

from moe_jax.config import override
from moe_jax.mesh.build import build_mesh
from moe_jax.model.flops import flops_per_token
from moe_jax.training.reporting.reporter import Reporter, peak_flops

H100 = [SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")]


def test_throughput_counts_the_whole_batch_and_flops_per_device():
    report = make_step_report()
    assert report.tokens_per_second == 8 * 32 / 0.5
    per_device = 512 * flops_per_token(CONFIG).total_training / 4
    assert report.tflops_per_device == pytest.approx(per_device / 1e12)


def test_mfu_is_achieved_over_peak_and_none_without_a_peak():
    assert make_step_report().mfu is None
    report = make_step_report(peak_flops=1e12)
    assert report.mfu == pytest.approx(report.tflops_per_device)


def test_peak_is_known_for_bfloat16_on_a_known_chip_only():
    assert 9.8e14 < peak_flops(CONFIG, H100) < 10e14
    assert peak_flops(CONFIG, [SimpleNamespace(device_kind="cpu")]) is None
    assert peak_flops(override(CONFIG, ["precision.compute=float32"]), H100) is None


def test_layers_report_imbalance_and_shares_of_routed_rows():
    layers = make_step_report().layers
    assert layers.load_imbalance == (1.0, 2.5)
    assert layers.off_device_share == (0.75, 0.5)
    assert layers.off_host_share == (0.5, 0.0)
    assert layers.rows_padded == (64, 10)


def test_overflow_rounds_are_not_multiplied_by_the_devices_that_ran_them():
    assert make_step_report().layers.overflow_rounds == (0.0, 1.0)


def test_eta_uses_the_mean_pace():
    assert make_step_report(step=60).eta_seconds == 40 * 0.25


def test_zero_seconds_are_refused():
    with pytest.raises(ValueError, match="takes time"):
        make_step_report(seconds=0.0)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reporter(clock):
    config = override(CONFIG, ["train.steps=100"])
    return Reporter(config, build_mesh(config.mesh, jax.devices()[:4]), clock)


def test_reporter_times_steps_and_leaves_out_what_was_between_them(reporter, clock):
    reporter.start(20, 0)
    clock.now += 30  # compiling
    reporter.restart_clock()
    clock.now += 2
    assert reporter(21, make_metrics()).seconds == 2
    clock.now += 3
    assert reporter(22, make_metrics()).seconds == 3
    clock.now += 7  # validation
    reporter.restart_clock()
    clock.now += 1
    assert reporter(23, make_metrics()).seconds == 1


def test_reporter_divides_among_unreported_steps(reporter, clock):
    reporter.start(20, 0)
    clock.now += 8
    assert reporter(24, make_metrics()).seconds == 2


def test_reporter_eta_counts_the_work_between_steps(reporter, clock):
    for step in range(1, 61):
        if step % 10 == 0:
            clock.now += 10
            reporter.restart_clock()
        clock.now += 1
        report = reporter(step, make_metrics())
    # Of 50 steps, 5 waited for 10 s of something else.
    assert report.eta_seconds == pytest.approx(40 * 2)


def test_reporter_adds_skipped_steps_to_those_before_the_resume(reporter, clock):
    reporter.start(20, 3)
    totals = []
    for step, skipped in ((21, 0.0), (22, 1.0), (23, 1.0)):
        clock.now += 1
        totals.append(reporter(step, make_metrics(skipped=skipped)).skipped_total)
    assert totals == [3, 4, 5]
