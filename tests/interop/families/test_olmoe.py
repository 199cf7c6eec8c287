"""OLMoE: norms over all heads together, clipped projections, weights of a softmax over all."""

from support.hf.config_jsons import of, published


def test_olmoe_as_published_is_read():
    model = published("OLMoE-1B-7B")
    assert (model.moe.num_experts, model.moe.top_k) == (64, 8)
    assert (model.attention.qk_norm, model.attention.clip_qkv) == ("all_heads", 0.0)
    assert model.moe.router.normalize_over == "all"


def test_clipping_is_off_where_it_is_null():
    assert of("olmoe", clip_qkv=8.0).attention.clip_qkv == 8.0
    assert of("olmoe", clip_qkv=None).attention.clip_qkv == 0.0
