"""Heads whose number or width another field tells."""

import pytest

from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.table.attention import HeadDim, KvHeads, Latent
from moe_jax.interop.table.setting import Fields

SIZES = {"hidden_size": 64, "num_attention_heads": 8}
LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}


def fields(**given):
    return Fields("a family", SIZES | given, {})


@pytest.mark.parametrize(("given", "heads"), [(None, 8), (2, 2)])
def test_key_value_heads_are_as_many_as_query_heads_where_null(given, heads):
    values = KvHeads().read(fields(num_key_value_heads=given))
    assert values == {"attention.kv_heads": heads}


def test_a_head_is_its_share_of_the_width_where_nothing_is_said():
    assert HeadDim().read(fields()) == {"attention.head_dim": 8}
    assert HeadDim().read(fields(head_dim=24)) == {"attention.head_dim": 24}


def test_latent_widths_are_read_and_written():
    values = Latent().read(fields(**LATENT))
    assert values["attention.kv_heads"] == 8
    assert (values["attention.latent.q_rank"], values["attention.head_dim"]) == (0, 16)
    model = ModelConfig()
    latent = {key.rpartition(".")[2]: v for key, v in values.items() if ".latent." in key}
    attention = model.attention.model_copy(
        update={
            "heads": 8,
            "head_dim": 16,
            "latent": model.attention.latent.model_copy(update=latent),
        }
    )
    written = Latent().write(model.model_copy(update={"attention": attention}))
    assert written == LATENT | {"num_key_value_heads": 8}


def test_latent_attention_has_a_key_for_every_query_head():
    with pytest.raises(UserError, match="latent attention has one per query head: 8"):
        Latent().read(fields(**LATENT, num_key_value_heads=2))
