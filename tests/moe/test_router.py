"""Routing against NumPy written from the papers' formulas, one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moe_jax.config import Config, override
from moe_jax.config.model_schema import MoeConfig
from moe_jax.moe.router import Router, route

TOKENS, EXPERTS = 13, 8
LOGITS = np.random.default_rng(0).normal(size=(TOKENS, EXPERTS)).astype(np.float32)


def moe(*settings: str, top_k: int = 3) -> MoeConfig:
    given = [f"model.moe.router.{setting}" for setting in settings]
    return override(Config(), [f"model.moe.top_k={top_k}", *given]).model.moe


def routed(config: MoeConfig, logits=LOGITS, bias=None):
    bias_e = None if bias is None else jnp.asarray(bias)
    return jax.jit(lambda logits_te: route(logits_te, bias_e, config))(jnp.asarray(logits))


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def sigmoid(row: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-row))


@pytest.mark.parametrize(("name", "score"), [("softmax", softmax), ("sigmoid", sigmoid)])
@pytest.mark.parametrize("over", ["all", "selected"])
def test_scores_selection_and_weights_follow_the_formula(name, score, over):
    config = moe(f"score={name}", f"normalize_over={over}", "scale=2.5")
    result = routed(config)
    for t, row in enumerate(LOGITS.astype(np.float64)):
        scores = score(row)
        chosen = np.argsort(-scores)[:3]
        weights = scores[chosen]
        if over == "selected":
            weights = weights / weights.sum()
        np.testing.assert_array_equal(result.routing.experts_tk[t], chosen)
        np.testing.assert_allclose(result.routing.weights_tk[t], 2.5 * weights, rtol=1e-5)
        np.testing.assert_allclose(result.probs_te[t], scores / scores.sum(), rtol=1e-5)


def groups_by_hand(row: np.ndarray, groups: int, best: int, take: int) -> list[int]:
    """Returns the experts that may compete: those of the `take` groups with the best sum."""
    grouped = row.reshape(groups, -1)
    totals = np.sort(grouped, axis=1)[:, -best:].sum(axis=1)
    winners = np.argsort(-totals)[:take]
    size = grouped.shape[1]
    return [g * size + i for g in winners for i in range(size)]


@pytest.mark.parametrize(("group_score", "best"), [("max", 1), ("top2_sum", 2)])
def test_group_limited_selection_only_takes_from_the_best_groups(group_score, best):
    config = moe("score=sigmoid", "groups=4", "top_groups=2", f"group_score={group_score}")
    experts_tk = routed(config).routing.experts_tk
    for t, row in enumerate(LOGITS):
        scores = sigmoid(row)
        allowed = groups_by_hand(scores, 4, best, 2)
        wanted = sorted(allowed, key=lambda e: -scores[e])[:3]
        np.testing.assert_array_equal(experts_tk[t], wanted)


def test_the_two_group_scores_differ_where_they_should():
    """One outstanding expert wins its group by max, two good ones theirs by their sum."""
    logits = np.array([[3.0, -9.0, 2.0, 2.0, -9.0, -9.0, -9.0, -9.0]], np.float32)
    chosen = {}
    for name in ("max", "top2_sum"):
        config = moe("score=sigmoid", "groups=4", "top_groups=1", f"group_score={name}", top_k=2)
        chosen[name] = np.asarray(routed(config, logits).routing.experts_tk[0]).tolist()
    assert chosen == {"max": [0, 1], "top2_sum": [2, 3]}


def test_bias_changes_the_selection_and_never_the_weights():
    config = moe("score=sigmoid", "normalize_over=all", top_k=2)
    bias = np.zeros(EXPERTS, np.float32)
    bias[5] = 10.0
    experts_tk = np.asarray(routed(config, bias=bias).routing.experts_tk)
    weights_tk = np.asarray(routed(config, bias=bias).routing.weights_tk)
    assert (experts_tk[:, 0] == 5).all()
    picked = np.take_along_axis(sigmoid(LOGITS), experts_tk, axis=1)
    np.testing.assert_allclose(weights_tk, picked, rtol=1e-5)


def test_bias_also_decides_between_groups():
    config = moe("score=sigmoid", "groups=4", "top_groups=1", top_k=2)
    bias = np.zeros(EXPERTS, np.float32)
    bias[6:] = 10.0
    experts_tk = np.asarray(routed(config, bias=bias).routing.experts_tk)
    assert (np.sort(experts_tk, axis=1) == [6, 7]).all()


def test_ties_go_to_the_lower_expert():
    result = routed(moe(), np.zeros((4, EXPERTS), np.float32))
    np.testing.assert_array_equal(result.routing.experts_tk, [[0, 1, 2]] * 4)
    tied = np.zeros((1, EXPERTS), np.float32)
    tied[0, [2, 6]] = 1.0
    np.testing.assert_array_equal(routed(moe(), tied).routing.experts_tk, [[2, 6, 0]])


def test_gradient_of_the_weights_flows_through_the_scores():
    """d/dlogit of a normalised softmax weight, by finite differences."""
    config = moe(top_k=2)
    direction = np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)
    scale_tk = jnp.asarray(np.random.default_rng(2).normal(size=(TOKENS, 2)), jnp.float32)

    def total(step):
        logits = jnp.asarray(LOGITS) + step * direction
        return (route(logits, None, config).routing.weights_tk * scale_tk).sum()

    slope = float(jax.jit(jax.grad(total))(0.0))
    value = jax.jit(total)
    numeric = float(value(1e-3) - value(-1e-3)) / 2e-3
    assert slope == pytest.approx(numeric, rel=2e-3)


def test_module_scores_tokens_with_its_matrix_in_the_router_dtype():
    config = override(
        Config(),
        ["model.d_model=16", "model.moe.router.bias_update_rate=0.1", "precision.router=bfloat16"],
    )
    router = Router(config.model, config.precision, rngs=nnx.Rngs(0))
    router.w_de[...] = 30 * router.w_de[...]
    x_td = jnp.asarray(np.random.default_rng(3).normal(size=(TOKENS, 16)), jnp.float32)
    result = router(x_td)
    rounded = [np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x_td, router.w_de[...])]
    assert result.logits_te.dtype == jnp.float32
    np.testing.assert_allclose(result.logits_te, rounded[0] @ rounded[1], rtol=1e-4, atol=1e-5)
    router.bias_e[...] = jnp.zeros(EXPERTS).at[7].set(10.0)
    assert (np.asarray(router(x_td).routing.experts_tk[:, 0]) == 7).all()
