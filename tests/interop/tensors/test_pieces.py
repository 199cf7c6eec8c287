"""Every element of every parameter comes from one place, and every tensor is used up."""

import re

import numpy as np
import pytest
from support.hf.hf_cases import CASES
from support.hf.hf_models import SIZES

from moe_jax.config.model_schema import AttentionConfig, MlpConfig, ModelConfig, MoeConfig
from moe_jax.config.schema import Config
from moe_jax.interop.config_json import family_of, to_config
from moe_jax.interop.families import FAMILIES
from moe_jax.interop.tensors.pieces import pieces, skipped_patterns
from moe_jax.model.skeleton import Skeleton


def config(family: str, **fields) -> Config:
    dense = family == "llama"
    return Config(
        model=ModelConfig(
            vocab_size=24,
            d_model=16,
            num_layers=5,
            layers=("dense",) if dense else fields.pop("layers", ("moe",)),
            attention=AttentionConfig(heads=4, kv_heads=2, head_dim=6),
            mlp=MlpConfig(d_ff=20, activation="swiglu"),
            moe=MoeConfig(num_experts=4, d_ff=12, activation="swiglu"),
            **fields,
        )
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pieces_cover_both_sides_exactly_once(case):
    fields = SIZES | case.fields | {"model_type": case.model_type}
    made = to_config(fields)
    found = pieces(made, family_of(fields))
    ours = {name: np.zeros(i.shape, int) for name, i in Skeleton(made).variables.items()}
    theirs = {piece.theirs: np.zeros(piece.layout.theirs_shape, int) for piece in found}
    for piece in found:
        ours[piece.ours][piece.index] += 1
        share = np.zeros_like(theirs[piece.theirs])
        theirs[piece.theirs] += piece.layout.to_theirs(np.ones(piece.layout.ours_shape, int), share)
    assert {name: (a == 1).all() for name, a in ours.items()} == dict.fromkeys(ours, True)
    assert {name: (a == 1).all() for name, a in theirs.items()} == dict.fromkeys(theirs, True)


def test_rows_of_a_stack_are_the_layers_that_it_holds():
    mixed = config("mixtral", layers=("dense", "moe", "moe", "moe", "moe"))
    with pytest.raises(ValueError, match=r"'mixtral' has no tensors for stacks\.0\..*mlp\.w_up_df"):
        pieces(mixed, FAMILIES["mixtral"])
    found = pieces(config("mixtral"), FAMILIES["mixtral"])
    routers = {p.index: p.theirs for p in found if p.ours.endswith("moe.router.w_de")}
    assert routers == {
        (row,): f"model.layers.{row}.block_sparse_moe.gate.weight" for row in range(5)
    }


def test_each_expert_is_a_tensor():
    found = pieces(config("mixtral"), FAMILIES["mixtral"])
    ups = {p.index: p.theirs for p in found if p.ours.endswith("w_up_edf")}
    assert ups[3, 2] == "model.layers.3.block_sparse_moe.experts.2.w3.weight"
    assert len(ups) == 5 * 4


def test_tensors_that_are_no_part_of_the_model_are_told():
    untied = config("deepseek_v3")
    (beyond,) = skipped_patterns(untied, FAMILIES["deepseek_v3"])
    assert re.fullmatch(beyond, "model.layers.5.eh_proj.weight")
    assert not re.fullmatch(beyond, "model.layers.4.mlp.gate.weight")
    tied = config("mixtral", tie_embeddings="tied")
    assert skipped_patterns(tied, FAMILIES["mixtral"]) == (r"lm_head\.weight",)
