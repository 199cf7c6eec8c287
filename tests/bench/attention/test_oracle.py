"""The oracle itself, against sums over positions written as loops."""

import dataclasses

import jax
import numpy as np
import pytest

from moe_jax.bench.attention.cases import AttentionCase, draw_operands
from moe_jax.bench.attention.oracle import attention_by, oracle, with_gradients

CASE = AttentionCase("", 1, 9, 2, 1, 4, 3, window=4, packing="mixed", sinks=True)


def by_hand(o) -> np.ndarray:
    q, k, v, sinks = (np.asarray(a, np.float64) for a in (o.q_bshm, o.k_bsgm, o.v_bsgn, o.sinks_h))
    documents, out = np.asarray(o.segments_bs)[0], np.zeros(o.do_bshn.shape)
    for head in range(CASE.heads):
        for s in range(CASE.length):
            seen = [t for t in range(max(0, s - 3), s + 1) if documents[t] == documents[s]]
            weights = np.exp(k[0, seen, 0] @ q[0, s, head] / 2)
            total = weights.sum() + np.exp(sinks[head])
            out[0, s, head] = weights @ v[0, seen, 0] / total
    return out


def test_value():
    operands = draw_operands(CASE, "float32")
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(oracle(CASE)(operands), by_hand(operands), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["q_bshm", "k_bsgm", "v_bsgn", "sinks_h"])
def test_gradients_equal_finite_differences(name):
    operands = draw_operands(CASE, "float32")
    step = np.random.default_rng(0).normal(size=getattr(operands, name).shape)

    do = np.asarray(operands.do_bshn, np.float64)

    def moved(h: float) -> float:
        value = np.asarray(getattr(operands, name), np.float64) + h * step
        return float((by_hand(dataclasses.replace(operands, **{name: value})) * do).sum())

    found = with_gradients(oracle(CASE))(operands)["d" + name.split("_")[0]]
    slope = float((np.asarray(found) * step).sum())
    assert slope == pytest.approx((moved(1e-3) - moved(-1e-3)) / 2e-3, rel=1e-2)


def test_no_sink_has_no_gradient():
    case = dataclasses.replace(CASE, sinks=False)
    found = with_gradients(attention_by("xla", case))(draw_operands(case, "float32"))
    assert found["dsinks"] is None
