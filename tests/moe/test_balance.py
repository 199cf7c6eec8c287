"""Balance losses against their formulas, and their independence of how tokens are split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.config import Config, override
from moe_jax.config.model_schema import MoeConfig
from moe_jax.moe.balance import BalanceSums, auxiliary_loss, balance_sums, updated_bias
from moe_jax.moe.router import route

SEQUENCES, LENGTH, EXPERTS, TOP_K = 4, 6, 8, 2
LOGITS = np.random.default_rng(0).normal(size=(SEQUENCES * LENGTH, EXPERTS)).astype(np.float32)


def moe(*settings: str) -> MoeConfig:
    return override(Config(), [f"model.moe.router.{setting}" for setting in settings]).model.moe


def sums(config: MoeConfig, logits: np.ndarray) -> BalanceSums:
    @functools.partial(jax.jit, static_argnums=1)
    def count(logits_te, sequences):
        return balance_sums(route(logits_te, None, config), sequences, config)

    return count(jnp.asarray(logits), len(logits) // LENGTH)


def stacked(*per_layer: BalanceSums) -> BalanceSums:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_layer)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def switch_loss(logits: np.ndarray) -> float:
    """E sum_e f_e P_e with f the share of choices and P the mean probability."""
    probs = softmax(logits)
    chosen = np.argsort(-probs, axis=1)[:, :TOP_K]
    share = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
    return EXPERTS * float((share * probs.mean(axis=0)).sum())


def test_global_loss_is_the_switch_formula_over_the_batch():
    config = moe("balance_loss=global", "balance_weight=0.5")
    loss = auxiliary_loss(stacked(sums(config, LOGITS)), config.router)
    assert float(loss) == pytest.approx(0.5 * switch_loss(LOGITS), rel=1e-5)


def test_sequence_loss_is_the_mean_of_the_formula_over_sequences():
    config = moe("balance_loss=sequence", "balance_weight=0.5")
    loss = auxiliary_loss(stacked(sums(config, LOGITS)), config.router)
    per_sequence = [switch_loss(rows) for rows in LOGITS.reshape(SEQUENCES, LENGTH, EXPERTS)]
    assert float(loss) == pytest.approx(0.5 * np.mean(per_sequence), rel=1e-5)


def test_z_loss_is_the_mean_square_of_logsumexp():
    config = moe("balance_loss=none", "z_weight=0.1")
    loss = auxiliary_loss(stacked(sums(config, LOGITS)), config.router)
    z = np.log(np.exp(LOGITS.astype(np.float64)).sum(axis=1))
    assert float(loss) == pytest.approx(0.1 * float((z**2).mean()), rel=1e-5)


def test_losses_of_layers_are_averaged():
    config = moe("balance_loss=global", "balance_weight=1.0")
    other = LOGITS[::-1] * 2
    loss = auxiliary_loss(stacked(sums(config, LOGITS), sums(config, other)), config.router)
    assert float(loss) == pytest.approx((switch_loss(LOGITS) + switch_loss(other)) / 2, rel=1e-5)


def test_even_load_costs_exactly_the_weight_and_skew_costs_more():
    config = moe("balance_loss=global", "balance_weight=1.0")
    even = 4.0 * np.eye(EXPERTS, dtype=np.float32) + 2.0 * np.roll(np.eye(EXPERTS), 1, axis=1)
    even = np.tile(even.astype(np.float32), (3, 1))
    assert float(auxiliary_loss(stacked(sums(config, even)), config.router)) == pytest.approx(1.0)
    skewed = np.zeros_like(even) + 3.0 * (np.arange(EXPERTS) == 2)
    loss = auxiliary_loss(stacked(sums(config, skewed.astype(np.float32))), config.router)
    assert float(loss) > 1.5


@pytest.mark.parametrize("kind", ["global", "sequence"])
def test_loss_does_not_depend_on_how_the_batch_is_split(kind):
    """Sums over unequal parts (streams, devices) give the loss of the whole."""
    config = moe(f"balance_loss={kind}", "z_weight=0.1")
    whole = sums(config, LOGITS)
    parts = [sums(config, LOGITS[: 3 * LENGTH]), sums(config, LOGITS[3 * LENGTH :])]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    loss = [float(auxiliary_loss(stacked(s), config.router)) for s in (whole, added)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)


def test_bias_moves_towards_idle_experts_by_exactly_the_rate():
    bias = jnp.array([[0.0, 0.5, -0.5], [1.0, 1.0, 1.0]])
    load = jnp.array([[9.0, 3.0, 0.0], [2.0, 2.0, 2.0]])
    moved = updated_bias(bias, load, 0.25)
    np.testing.assert_allclose(moved, [[-0.25, 0.75, -0.25], [1.0, 1.0, 1.0]])


def test_repeated_bias_updates_even_out_a_skewed_router():
    config = moe("score=sigmoid", "bias_update_rate=0.05")
    skew = LOGITS + 2.0 * (np.arange(EXPERTS) == 3).astype(np.float32)

    @jax.jit
    def step(bias, _):
        routing = route(jnp.asarray(skew), bias, config).routing
        load = jnp.zeros(EXPERTS).at[routing.experts_tk.reshape(-1)].add(1.0)
        return updated_bias(bias, load, 0.05), load

    _, loads = jax.lax.scan(step, jnp.zeros(EXPERTS), length=40)
    assert float(loads[0].max()) >= 2.5 * float(loads[0].mean())
    assert float(loads[-10:].mean(axis=0).max()) <= 1.5 * float(loads[-1].mean())
