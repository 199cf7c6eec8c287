"""The decoding benchmark: all ways continue the same texts, and its figures follow from times."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support.hf.tiny_hf import write_mixtral
from support.places import CONFIGS

import moe_jax
from moe_jax.bench.decode.times import DecodeTime, DecodeTimes
from moe_jax.bench.decode.ways import (
    GREEDY,
    Work,
    cached,
    full_forward,
    measure_decode,
    why_not_transformers,
)
from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes

WORK = Work(prompt_tokens=6, steps=1, repeats=2)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("models") / "mixtral"
    write_mixtral(path)
    return path


def times_of(*times, **changes):
    result = DecodeTimes(
        model="m",
        dtype="float32",
        mesh="expert 8",
        hardware="cpu",
        cores=2,
        date="today",
        versions={"jax": "1"},
        prompt_tokens=8,
        new_tokens=4,
        context=12,
        repeats=2,
        skipped={},
        times=times,
    )
    return dataclasses.replace(result, **changes)


def test_rates_are_tokens_of_the_whole_batch_and_compared_at_the_same_size():
    fast, slow = DecodeTime("cache", 8, 0.02, 0.001, 0.1), DecodeTime("full forward", 8, 0.1, 0, 0)
    other = DecodeTime("cache", 1, 0.01, 0, 0.1)
    result = times_of(other, fast, slow)
    assert (fast.tokens_per_s, other.tokens_per_s) == (400, 100)
    assert result.ratio(slow) == pytest.approx(0.2)
    rows = json.loads(json.dumps(result.to_json()))["times"]
    assert [row["ratio"] for row in rows] == [1, 1, pytest.approx(0.2)]


def test_the_context_holds_every_token_that_is_generated():
    calls = []
    Work(prompt_tokens=6, steps=3, repeats=4).time(lambda: calls.append(1))
    # And the first token, which the prompt gives.
    assert len(calls) + 1 == Work(prompt_tokens=6, steps=3, repeats=4).new_tokens


def test_the_cache_may_have_more_room_but_not_less():
    assert Work(6, 3, 4).context == Work(6, 3, 4).tokens == 6 + 2 + 3 * 5
    assert Work(6, 3, 4, room=100).context == 100
    with pytest.raises(ValueError, match=r"context of 22 tokens is too short for texts of 23"):
        Work(6, 3, 4, room=22)


def test_prompts_are_the_same_every_time_and_differ_within_a_batch():
    first, again = WORK.prompts(4, 300), WORK.prompts(4, 300)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, 6)
    assert len({tuple(row) for row in first.tolist()}) == 4


@pytest.mark.slow
def test_the_command_prints_every_way_at_every_size(path, tmp_path, capsys):
    assert jax.device_count() == 8
    numbers = ["--batch", "1", "3", "--prompt-tokens", "6", "--steps", "1", "--repeats", "2"]
    numbers += ["--context", "30"]
    code = main(["bench", "decode", str(path), *numbers, "--json", str(tmp_path / "times.json")])
    text = capsys.readouterr().out
    assert code == exit_codes.OK
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["context"] == 30
    ways = [(row["batch"], row["way"]) for row in found["times"]]
    assert ways == [(b, w) for b in (1, 3) for w in ("cache", "full forward", "transformers")]
    assert all(row["seconds"] > 0 and row["tokens_per_s"] > 0 for row in found["times"])
    assert [bool(row["prompt_seconds"]) for row in found["times"]] == [True, False, True] * 2
    assert {"torch", "transformers", "jax"} <= found["versions"].keys()
    for way in ("cache", "full forward", "transformers"):
        assert f"batch 3, {way}: " in text


@pytest.mark.slow
def test_both_ways_of_ours_generate_the_same_tokens(path, monkeypatch):
    """What is timed is what is promised: greedy tokens of the same prompt."""
    model = moe_jax.load(path)
    prompt = WORK.prompts(1, 300)
    kept = {}
    original = Work.time

    def recording(work, step):
        found = []
        timing = original(work, lambda: found.append(step()))
        kept[len(kept)] = found
        return timing

    monkeypatch.setattr(Work, "time", recording)
    cached(model, prompt, WORK)
    full_forward(model, prompt, WORK)
    with_cache = [tokens[0].id for tokens in kept[0]]
    without = [int(tokens[0]) for tokens in kept[1]]
    # The cache's first token came with the prompt.
    assert with_cache[: len(without) - 1] == without[1:]
    request = model.request(prompt[0], max_tokens=2, sampling=GREEDY)
    assert without[:2] == list(model.complete([request])[0].tokens)


@pytest.mark.slow
def test_a_config_is_timed_with_random_weights(path, tmp_path, capsys):
    sizes = ["model.num_layers=1", "model.d_model=16", "model.moe.d_ff=8", "mesh.expert=8"]
    changes = [word for size in sizes for word in ("--set", size)]
    config = CONFIGS / "olmoe_1b_7b.toml"
    numbers = ["--batch", "2", "--prompt-tokens", "6", "--steps", "1", "--repeats", "2"]
    code = main(["bench", "decode", str(config), *changes, "--dtype", "float32", *numbers])
    text = capsys.readouterr().out
    assert code == exit_codes.OK
    assert "batch 2, cache: " in text
    assert "transformers skipped" in text


def test_a_config_has_no_checkpoint_to_choose(capsys):
    code = main(["bench", "decode", str(CONFIGS / "olmoe_1b_7b.toml"), "--step", "3"])
    assert code == exit_codes.USER_ERROR
    assert "leave --step out" in capsys.readouterr().err


def test_transformers_is_skipped_with_the_reason(path, tmp_path, monkeypatch, capsys):
    assert why_not_transformers(path) == ""
    assert "moe-jax convert to-hf" in why_not_transformers(tmp_path)
    monkeypatch.setattr("moe_jax.bench.decode.ways.find_spec", lambda name: None)
    assert "torch and transformers not installed" in why_not_transformers(path)


@pytest.mark.slow
def test_a_reason_to_skip_is_part_of_the_result(path, monkeypatch):
    monkeypatch.setattr("moe_jax.bench.decode.ways.find_spec", lambda name: None)
    result = measure_decode(moe_jax.load(path), path, [1], WORK)
    assert [time.way for time in result.times] == ["cache", "full forward"]
    assert "not installed" in result.skipped["transformers"]
    assert "torch" not in result.versions


def test_numbers_out_of_range_are_refused_before_anything_is_loaded(tmp_path, capsys):
    code = main(["bench", "decode", str(tmp_path), "--batch", "0"])
    assert code == exit_codes.USER_ERROR
    assert "--batch, --prompt-tokens and --steps must be 1 or more" in capsys.readouterr().err
    assert main(["bench", "decode", str(tmp_path), "--repeats", "1"]) == exit_codes.USER_ERROR
    assert "--repeats (1) must be 2 or more" in capsys.readouterr().err
