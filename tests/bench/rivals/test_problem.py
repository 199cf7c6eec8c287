"""Routings are what they are called, and every router finds them."""

import numpy as np
import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS
from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.errors import UserError


def loads(problem, routing):
    chosen_tk = problem.choices(routing)
    assert chosen_tk.shape == (problem.tokens, problem.top_k)
    assert all(len(set(row)) == problem.top_k for row in chosen_tk[:50])
    return np.bincount(chosen_tk.ravel(), minlength=problem.experts)


@pytest.mark.parametrize("shape", ["olmoe", "qwen3", "tiny"])
def test_balanced_experts_serve_the_same_number_of_rows(shape):
    problem = layer_problem(shape, 1024, "float32")
    assert set(loads(problem, "balanced")) == {problem.mean_rows}


def test_the_hot_expert_serves_four_times_the_mean_and_the_others_the_rest():
    problem = layer_problem("olmoe", 2048, "float32")
    load_e = np.sort(loads(problem, "skewed"))
    assert load_e[-1] == 4 * problem.mean_rows
    assert load_e[-2] < 1.4 * problem.mean_rows


def test_random_experts_are_uneven():
    load_e = loads(layer_problem("olmoe", 2048, "float32"), "random")
    assert 1.05 < load_e.max() / load_e.mean() < 1.5


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_logits_lead_to_the_choices(routing):
    problem = layer_problem("qwen3", 300, "bfloat16")
    found = np.argsort(-problem.logits(routing), axis=1)[:, : problem.top_k]
    np.testing.assert_array_equal(found, problem.choices(routing))


def test_a_layer_whose_experts_all_serve_every_token_has_one_routing():
    problem = layer_problem("paper", 10, "bfloat16")
    assert problem.why_not("balanced") == ""
    assert "all 2 experts serve every token" in problem.why_not("skewed")


def test_flops_are_those_of_three_products_an_expert_and_the_router():
    problem = layer_problem("tiny", 10, "bfloat16")
    assert problem.flops == 3 * 2 * 10 * (2 * 3 * 256 * 128 + 256 * 4)
    assert problem.least_bytes == 3 * 2 * (4 * 3 * 256 * 128 + 256 * 4)


def test_tokens_are_one_or_more():
    with pytest.raises(UserError, match=r"--tokens \(-1\)"):
        layer_problem("tiny", -1, "float32")
