"""A hop: a token once for each group, and a capacity that follows the groups that it visits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.exchange.beside import spare_rows
from moe_jax.moe.exchange.contract import Routing
from moe_jax.moe.exchange.hop import RECEIVED, Hop, distinct_groups


@pytest.mark.parametrize(
    ("top_k", "experts", "groups"), [(1, 4, 2), (2, 8, 4), (3, 6, 3), (8, 8, 2)]
)
def test_distinct_groups_is_the_mean_over_all_choices(top_k, experts, groups):
    per_group = experts // groups
    choices = list(itertools.combinations(range(experts), top_k))
    visited = [len({expert // per_group for expert in chosen}) for chosen in choices]
    assert distinct_groups(top_k, experts, groups) == pytest.approx(sum(visited) / len(choices))


def test_the_figures_of_qwen3():
    """8 of 128 experts on 16 devices of 2 hosts."""
    assert distinct_groups(8, 128, 16) == pytest.approx(6.6, abs=0.05)
    assert distinct_groups(8, 128, 2) == pytest.approx(1.99, abs=0.01)


TOKENS, SIZE, PLACES = 16, 3, 7
#: Two groups of two experts; nobody moves, so a group's rows are served where they are.
HOP = Hop(
    groups=2,
    experts=2,
    move=lambda rows: rows,
    agree=lambda rounds: rounds,
    rows=PLACES,
    round_fraction=0.25,
    overflow="rounds",
)


def doubled(params, x_rd, routing):
    """Twice each row, times the sum of its weights in the group."""
    return params * x_rd * routing.weights_tk.sum(axis=1)[:, None], jnp.zeros(2)


def inputs(all_to_group: int | None = None):
    rng = np.random.default_rng(0)
    experts_tk = np.stack([rng.permutation(4)[:2] for _ in range(TOKENS)])
    if all_to_group is not None:
        experts_tk = np.broadcast_to([[2 * all_to_group, 2 * all_to_group + 1]], (TOKENS, 2))
    weights_tk = jnp.asarray(rng.uniform(size=(TOKENS, 2)), jnp.float32)
    x_td = jnp.asarray(rng.normal(size=(TOKENS, SIZE)), jnp.float32)
    return x_td, Routing(jnp.asarray(experts_tk, jnp.int32), weights_tk)


def test_choices_of_one_group_travel_in_one_row():
    x_td, routing = inputs(all_to_group=1)
    y_td, counts = HOP(jnp.float32(2), x_td, routing, doubled)
    np.testing.assert_allclose(
        y_td, 2 * x_td * routing.weights_tk.sum(axis=1, keepdims=True), rtol=1e-6
    )
    np.testing.assert_array_equal(counts.sent_g, [0, TOKENS])
    # 16 tokens for 7 places, then 2 at a time.
    assert HOP.step == 2
    assert float(counts.rounds) == 5
    assert float(counts.padded) == 2 * (7 + 5 * 2) - TOKENS


def test_only_the_main_rounds_arrivals_are_kept_for_backward_by_name():
    x_td, routing = inputs()

    def run(params, x_td):
        return HOP(params, x_td, routing, doubled)[0]

    keep = jax.checkpoint_policies.save_only_these_names(RECEIVED)
    kept = jax.make_jaxpr(lambda *args: jax.vjp(jax.checkpoint(run, policy=keep), *args))(
        jnp.float32(2), x_td
    )
    shapes = [value.aval.shape for value in kept.jaxpr.outvars]
    main, further = (
        HOP.groups * (places + spare_rows(places, 2 * 2, SIZE, "float32"))
        for places in (PLACES, HOP.step)
    )
    assert shapes.count((main, SIZE)) == 1
    assert (further, SIZE) not in shapes
