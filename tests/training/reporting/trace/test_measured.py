"""Figures of a small profile whose every moment is known."""

import pytest
from support.profiles import KERNELS, write_profile

from moe_jax.training.reporting.trace.events import read_events
from moe_jax.training.reporting.trace.measured import measure_profile


@pytest.fixture
def profile(tmp_path):
    return measure_profile(read_events(write_profile(tmp_path)))


def us(seconds):
    return pytest.approx(seconds * 1e-6)


def test_time_by_kind(profile):
    assert profile.total_s == us(100)
    assert {kind: seconds for kind, seconds in profile.kinds.items() if seconds} == {
        "matmul": us(50),
        "elementwise, copies": us(10),
        "grouped matmul": us(15),
    }


def test_what_is_hidden_of_each_collective(profile):
    moved, reduced = profile.collectives
    assert (moved.kind, moved.count, reduced.kind, reduced.count) == (
        "all-to-all",
        2,
        "all-reduce",
        1,
    )
    assert (moved.busy_s, moved.hidden_s, moved.exposed_s) == (us(45), us(35), us(10))
    assert (reduced.busy_s, reduced.exposed_s) == (us(10), us(10))


def test_all_time_is_spent_once(profile):
    assert (profile.exposed_s, profile.idle_s) == (us(20), us(5))
    kinds = sum(profile.kinds.values())
    assert kinds + profile.exposed_s + profile.idle_s == pytest.approx(profile.total_s)


def test_products_beside_collectives_are_compared_with_themselves_alone(profile):
    assert profile.slowdown == pytest.approx(1.5)


def test_devices_are_averaged(tmp_path):
    one = read_events(write_profile(tmp_path))["/device:GPU:0"]
    quiet = [event for event in one if "nccl" not in event.name]
    both = measure_profile({"a": one, "b": quiet})
    assert both.devices == 2
    assert both.collectives[0].busy_s == us(45 / 2)
    assert both.idle_s == us((5 + 25) / 2)
    assert both.slowdown == pytest.approx(1.5)


def test_without_a_kernel_that_ran_both_ways_there_is_no_slowdown(tmp_path):
    profile = measure_profile(read_events(write_profile(tmp_path, KERNELS[1:])))
    assert profile.slowdown is None
