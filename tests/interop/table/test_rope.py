"""Rotary positions in each of their forms; what is refused is tested in test_config_json.py."""

import math

import pytest
from support.hf.config_jsons import YARN, of

from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.table.rope import LatentRope, Rope
from moe_jax.interop.table.setting import Fields


def test_older_and_newer_forms_of_rope_are_the_same():
    old = of("llama", rope_theta=5000.0, rope_scaling=YARN)
    assert old == of("llama", rope_parameters=YARN | {"rope_theta": 5000.0})
    assert old.attention.rope.theta == 5000.0
    oldest = {key: value for key, value in YARN.items() if key != "rope_type"} | {"type": "yarn"}
    assert old == of("llama", rope_theta=5000.0, rope_scaling=oldest)


def read(table, **fields):
    usual = {"rope_theta": 10000.0, "max_position_embeddings": 256}
    return table.read(Fields("a family", fields, usual))


def with_rope(values) -> ModelConfig:
    """Return a model with what a table read, as `attention.rope.x` or `attention.x`."""
    model = ModelConfig()
    names = {key.removeprefix("attention.rope."): v for key, v in values.items() if "rope." in key}
    rope = model.attention.rope.model_copy(update=names)
    scale = {"scale": values.get("attention.scale", 0.0)}
    attention = model.attention.model_copy(update={"rope": rope} | scale)
    return model.model_copy(update={"attention": attention})


def test_without_a_kind_there_is_only_a_base():
    assert read(Rope(), rope_theta=5.0) == {
        "attention.rope.scaling": "none",
        "attention.rope.theta": 5.0,
    }


def test_a_missing_factor_is_the_length_over_the_original_one():
    values = read(
        Rope(),
        rope_scaling={"rope_type": "yarn", "original_max_position_embeddings": 64}
        | {"factor": 4.0},
    )
    assert values["attention.rope.factor"] == 4.0
    long = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
    values = read(Rope(), rope_scaling=long, original_max_position_embeddings=64)
    assert values["attention.rope.factor"] == 4.0
    # LongRoPE's square root of 1 + ln 4 / ln 64.
    expected = math.sqrt(1 + math.log(4) / math.log(64))
    assert values["attention.rope.attention_factor"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        YARN | {"truncate": False, "beta_fast": 16.0},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_what_is_written_reads_the_same(scaling):
    values = read(Rope(), rope_scaling=scaling)
    written = Rope().write(with_rope(values))["rope_parameters"]
    assert written["rope_type"] == scaling["rope_type"]
    # Usual values of ours are written out.
    assert values.items() <= read(Rope(), rope_parameters=written).items()


def test_yarn_of_latent_attention_scales_the_logits_and_back():
    sizes = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    values = read(LatentRope(), rope_scaling=YARN | {"mscale_all_dim": 0.5}, **sizes)
    mscale = 0.1 * 0.5 * math.log(4.0) + 1
    assert values["attention.scale"] == pytest.approx(mscale**2 / math.sqrt(192))
    model = with_rope(values)
    latent = model.attention.latent.model_copy(update={"rope_head_dim": 64})
    attention = model.attention.model_copy(update={"latent": latent, "head_dim": 128})
    written = LatentRope().write(model.model_copy(update={"attention": attention}))
    assert written["rope_parameters"]["mscale_all_dim"] == 0.5


def test_a_scale_that_no_yarn_gives_is_refused():
    model = ModelConfig()
    attention = model.attention.model_copy(update={"scale": 0.5})
    with pytest.raises(UserError, match=r"attention\.scale = 0\.5 needs .*factor above 1, it is"):
        LatentRope().write(model.model_copy(update={"attention": attention}))
