"""Work is what the model's count says, and every case gets a line."""

import dataclasses

import pytest

from moe_jax.bench.attention import times
from moe_jax.bench.attention.cases import SMALL, TIMED
from moe_jax.bench.attention.times import AttentionTime, causal_flops, time_attention


def test_work_is_that_of_what_is_seen():
    plain = next(case for case in TIMED if case.name == "OLMoE")
    assert causal_flops(plain) == 4 * 16 * 128 * 4 * 4096 * 4097 / 2
    latent = next(case for case in TIMED if case.name == "DeepSeek")
    assert causal_flops(latent) == pytest.approx(causal_flops(plain) * (192 + 128) / 256)


def test_cases_are_timed_and_failures_told(monkeypatch):
    short = dataclasses.replace(SMALL[1], length=64)
    right = times.compiled_run

    def run(name, case, dtype):
        if case is SMALL[0]:
            raise NotImplementedError("no kernel")
        return right(name, case, dtype)

    monkeypatch.setattr(times, "compiled_run", run)
    failed, time = time_attention(["xla"], [SMALL[0], short], "float32", repeats=2, batch_s=1e-4)
    assert "no kernel" in failed
    assert time.forward_s > 0
    assert time.both_s > 0
    assert time.temp_bytes > 0


def test_rates_stand_beside_the_bound():
    case = next(case for case in TIMED if case.name == "OLMoE")
    flops = causal_flops(case)
    line = AttentionTime(case, "cudnn", flops / 500e12, 3 * flops / 400e12, 2**21).line(1000e12)
    assert "( 500 TFLOP/s)" in line
    assert f"( 400 TFLOP/s, at best {3e3 * flops / 1e15:.3f} ms)" in line
    assert "temporary 2 MiB" in line
    assert "at best" not in AttentionTime(case, "torch sdpa", 1.0, 1.0).line(None)
