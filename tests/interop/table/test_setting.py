"""The simple kinds of entries, each way."""

import pytest

from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.table.setting import Always, Count, Fields, OneOf, Only, Same, value_of

MODEL = ModelConfig()


def fields(**given):
    return Fields("a family", given, {"usual": 7})


def test_absent_fields_have_the_familys_value_or_are_asked_for():
    assert fields()["usual"] == 7
    assert fields(usual=8)["usual"] == 8
    assert fields().get("other", 3) == 3
    with pytest.raises(UserError, match="other is missing and family 'a family' has no usual"):
        fields()["other"]


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 9])
def test_whole_numbers_of_a_range_are_nothing_else(value):
    with pytest.raises(UserError, match=rf"n = {value!r} .* a whole number from 1 to 8"):
        fields(n=value).whole("n", most=8)
    assert fields(n=8).whole("n", most=8) == 8


def test_a_long_value_is_cut_in_the_message():
    assert len(str(fields().refuse("n", "x" * 10_000, "why"))) < 700


def test_null_is_refused_unless_it_means_something():
    with pytest.raises(UserError, match=r"clip = None .* must have a value"):
        Same("clip", "attention.clip_qkv").read(fields(clip=None))
    same = Same("clip", "attention.clip_qkv", null=0.0)
    assert same.read(fields(clip=None)) == {"attention.clip_qkv": 0.0}
    assert same.write(MODEL) == {"clip": None}


def test_an_alias_is_read_where_the_file_has_it():
    count = Count("num_experts", "moe.num_experts", aliases=("num_local_experts",))
    assert count.keys == ("num_experts", "num_local_experts")
    assert count.read(fields(num_local_experts=4)) == {"moe.num_experts": 4}
    with pytest.raises(UserError, match=r"num_local_experts = 'x'"):
        count.read(fields(num_local_experts="x"))
    assert count.write(MODEL) == {"num_experts": MODEL.moe.num_experts}


def test_values_that_both_sides_spell_differently():
    entry = OneOf("tie", ("tie_embeddings",), ((True, "tied"), (False, "untied"), (0, "untied")))
    assert entry.read(fields(tie=True)) == {"tie_embeddings": "tied"}
    with pytest.raises(UserError, match=r"tie = 1 .* known are True, False, 0"):
        entry.read(fields(tie=1))
    untied = MODEL.model_copy(update={"tie_embeddings": "untied"})
    assert entry.write(untied) == {"tie": False}
    with pytest.raises(UserError, match=r"model\.tie_embeddings = 'tied' has no tie"):
        OneOf("tie", ("tie_embeddings",), ()).write(
            MODEL.model_copy(update={"tie_embeddings": "tied"})
        )


def test_what_every_model_of_a_family_has_is_in_no_field():
    entry = Always({"norm": "rmsnorm"})
    assert (entry.read(fields()), entry.write(MODEL)) == ({"norm": "rmsnorm"}, {})


def test_the_only_supported_value_may_be_absent():
    entry = Only("bias", False, "no biases are known")
    assert entry.read(fields()) == entry.read(fields(bias=None)) == entry.read(fields(bias=False))
    with pytest.raises(UserError, match=r"bias = True .* no biases are known"):
        entry.read(fields(bias=True))
    assert entry.write(MODEL) == {"bias": False}


def test_our_fields_are_named_by_their_path():
    assert value_of(MODEL, "attention.heads") == MODEL.attention.heads
