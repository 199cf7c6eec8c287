"""Times of generation: rates and ratios that follow from them."""

import json

import pytest

from moe_jax.bench.decode.times import DecodeTime, DecodeTimes

TIMES = DecodeTimes(
    model="toy",
    dtype="float32",
    mesh="expert 8",
    hardware="8 emulated",
    cores=2,
    date="2026-11-26",
    versions={"jax": "0.10.2"},
    prompt_tokens=16,
    new_tokens=8,
    context=24,
    repeats=3,
    skipped={"transformers": "not installed"},
    times=(
        DecodeTime("cache", 1, 0.5, 0.01, 0.2),
        DecodeTime("cache", 8, 1.0, 0.01, 0.4),
        DecodeTime("full forward", 8, 4.0, 0.1, 0.0),
    ),
)


def test_a_step_gives_a_token_to_every_text():
    assert [time.tokens_per_s for time in TIMES.times] == [2, 8, 2]


def test_ratios_are_to_the_cache_at_the_same_batch():
    assert [TIMES.ratio(time) for time in TIMES.times] == [1, 1, 0.25]


def test_json_is_measured_and_has_what_follows():
    written = json.loads(json.dumps(TIMES.to_json()))
    assert written["kind"] == "measured"
    assert written["skipped"] == TIMES.skipped
    assert [row["ratio"] for row in written["times"]] == [1, 1, 0.25]
    assert written["times"][1]["tokens_per_s"] == pytest.approx(8)
    assert written["times"][1]["prompt_seconds"] == 0.4
