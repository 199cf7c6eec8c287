"""gpt-oss: biased and clamped experts in one tensor, attention sinks, windows by turns."""

from support.hf.config_jsons import published


def test_gpt_oss_as_published_is_read():
    model = published("gpt-oss-120b")
    assert model.attention.windows == (128, 0)
    assert (model.attention.sinks, model.attention.bias) == ("per_head", "all")
    assert (model.attention.rope.ramp, model.attention.rope.factor) == ("exact", 32.0)
    assert (model.moe.activation, model.moe.clamp_limit) == ("swiglu_clamped", 7.0)
    assert (model.moe.clamp_alpha, model.moe.bias, model.moe.router.bias) == (
        1.702,
        "all",
        "per_expert",
    )
