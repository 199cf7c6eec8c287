"""Model FLOPs and parameter counts against numbers worked out by hand."""

import itertools

import pytest
from support.places import CONFIGS

from moe_jax.config import Config, load_config, override
from moe_jax.model.flops import active_parameters, flops_per_token, mean_context, total_parameters
from moe_jax.model.skeleton import Skeleton

TINY = override(
    Config(),
    [
        "data.sequence_length=4",
        "model.vocab_size=10",
        "model.d_model=6",
        "model.num_layers=1",
        "model.attention.heads=2",
        "model.attention.kv_heads=1",
        "model.attention.head_dim=4",
        "model.mlp.d_ff=5",
        "model.moe.num_experts=8",
        "model.moe.top_k=2",
        "model.moe.d_ff=7",
    ],
)
#: q 6x8, k 6x4, v 6x4, out 8x6.
PROJECTIONS = 48 + 24 + 24 + 48
HEAD = 10 * 6


def test_moe_layer_counts_router_and_the_top_k_experts():
    # Router 6x8; an expert is 6x7 and 7x6; two of eight are visited.
    expected = 2 * (PROJECTIONS + 48 + 2 * 84 + HEAD)
    assert flops_per_token(TINY).matmul == expected == 840


def test_shared_experts_and_a_gate_add_their_matrices():
    config = override(TINY, ["model.moe.shared_experts=1", "model.moe.activation=swiglu"])
    expected = 2 * (PROJECTIONS + 48 + 3 * (3 * 42) + HEAD)
    assert flops_per_token(config).matmul == expected == 1260


def test_dense_layer_counts_its_mlp_alone():
    config = override(TINY, ['model.layers=["dense"]'])
    expected = 2 * (PROJECTIONS + 2 * 30 + HEAD)
    assert flops_per_token(config).matmul == expected == 528


def test_attention_counts_what_the_causal_mask_leaves():
    # 4 queries see 1, 2, 3, 4 keys: 2.5 on average; 2 products x 2 FLOPs x 2 heads x 4 dims.
    assert flops_per_token(TINY).attention == 2 * 2 * 8 * 2.5 == 80


def test_attention_follows_each_layers_window():
    config = override(TINY, ["model.num_layers=2", "model.attention.windows=[0, 2]"])
    # With a window of 2, the queries see 1, 2, 2, 2 keys.
    assert flops_per_token(config).attention == 32 * (2.5 + 1.75)


def test_training_is_three_times_forward():
    flops = flops_per_token(TINY)
    assert (flops.total_forward, flops.total_training) == (920, 2760)


@pytest.mark.parametrize(("length", "window"), [(1, 0), (7, 0), (7, 1), (7, 3), (7, 7), (7, 9)])
def test_mean_context_is_that_of_counting(length, window):
    seen = [min(i + 1, window or length) for i in range(length)]
    assert mean_context(length, window) == pytest.approx(sum(seen) / length)


def test_tied_embeddings_cost_as_many_flops_and_fewer_parameters():
    tied = override(TINY, ["model.tie_embeddings=tied"])
    assert flops_per_token(tied) == flops_per_token(TINY)
    assert total_parameters(TINY) - total_parameters(tied) == 60


def test_active_parameters_leave_out_the_experts_not_visited():
    # Two tables, final norm; per layer 144 + router 48 + 8 experts of 84 + two norms.
    assert total_parameters(TINY) == 2 * 60 + 6 + 144 + 48 + 8 * 84 + 12 == 1002
    assert active_parameters(TINY) == 1002 - 6 * 84


VARIANTS = list(
    itertools.product(
        (["model.norm=layernorm", "model.tie_embeddings=tied"], ["model.attention.qk_norm=head"]),
        (["model.attention.bias=none"], ["model.attention.bias=qkv"], ["model.attention.bias=all"]),
        (
            ["model.moe.shared_experts=2", "model.moe.bias=all", "model.moe.activation=geglu"],
            ['model.layers=["dense", "moe", "moe"]', "model.num_layers=5", "model.mlp.bias=all"],
            ["model.moe.router.bias_update_rate=0.01"],
        ),
    )
)


VARIANTS += [
    (["model.attention.kind=latent", "model.attention.latent.q_rank=3"],),
    (["model.attention.kind=latent"],),
    (["model.attention.qk_norm=all_heads", "model.attention.sinks=per_head"],),
    (["model.moe.shared_experts=2", "model.moe.shared_d_ff=5", "model.moe.shared_gate=sigmoid"],),
    (["model.head_bias=per_token", "model.moe.router.bias=per_expert"],),
    (["model.moe.router.selection_bias=always"],),
    (["model.moe.activation=swiglu_clamped", "model.moe.bias=all"],),
]


@pytest.mark.parametrize("parts", VARIANTS, ids=lambda parts: ",".join(itertools.chain(*parts)))
def test_total_parameters_are_those_of_the_model(parts):
    config = override(TINY, list(itertools.chain(*parts)))
    assert total_parameters(config) == Skeleton(config).parameter_count()


def test_the_papers_model():
    config = load_config(CONFIGS / "paper_ep16.toml")
    assert total_parameters(config) == Skeleton(config).parameter_count() == 35_696_807_936
    # Per layer: 4 projections of 4096², router, 2 experts of 2 x 4096 x 16384; then the head.
    layer = 4 * 4096**2 + 4096 * 16 + 4 * 4096 * 16384
    flops = flops_per_token(config)
    assert flops.matmul == 2 * (16 * layer + 4096 * 32000)
    assert flops.attention == 16 * 4 * 4096 * 5000.5
