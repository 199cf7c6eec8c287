"""Which layers are sparse and which have a window, read from fields and written to them."""

import pytest
from support.hf.config_jsons import of

from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.table.layers import (
    FULL,
    SLIDING,
    FirstDense,
    OneWindow,
    SparseStep,
    WindowedLayers,
    shortest_pattern,
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"decoder_sparse_step": 2}, ("dense", "moe")),
        ({"mlp_only_layers": [0, 3]}, ("dense", "moe", "moe")),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, ("dense", "dense", "dense", "moe")),
        ({}, ("moe",)),
    ],
)
def test_sparse_layers_are_those_that_the_fields_say(fields, expected):
    assert of("qwen3_moe", **fields).layers == expected


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        ("mixtral", {"sliding_window": 9}, (9,)),
        ("mixtral", {"sliding_window": None}, (0,)),
        ("qwen3_moe", {"sliding_window": 9}, (0,)),
        ("qwen3_moe", {"sliding_window": 9, "use_sliding_window": True}, (9,)),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 3}, (0, 0, 0, 4096)),
        ("qwen3", {"use_sliding_window": False, "max_window_layers": 3}, (0,)),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 2}, (4096, 0, 0, 0)),
        ("gpt_oss", {}, (128, 0)),
        ("gpt_oss", {"layer_types": ["full_attention"] * 4}, (0,)),
    ],
)
def test_windows_are_on_the_layers_that_the_fields_say(model_type, fields, expected):
    assert of(model_type, **fields).attention.windows == expected


def model(windows=(0,), layers=("moe",), num_layers=4) -> ModelConfig:
    config = ModelConfig(layers=layers, num_layers=num_layers)
    attention = config.attention.model_copy(update={"windows": windows})
    return config.model_copy(update={"attention": attention})


@pytest.mark.parametrize(
    ("layers", "fields"),
    [
        (("moe",), {"decoder_sparse_step": 1, "mlp_only_layers": []}),
        (("dense", "moe"), {"decoder_sparse_step": 2, "mlp_only_layers": []}),
        (("moe", "dense"), {"decoder_sparse_step": 1, "mlp_only_layers": [1, 3]}),
    ],
)
def test_sparse_layers_are_written_as_a_step_where_they_have_one(layers, fields):
    assert SparseStep().write(model(layers=layers)) == fields


def test_first_dense_layers_are_counted_and_later_ones_refused():
    first = model(layers=("dense", "moe", "moe", "moe"))
    assert FirstDense().write(first) == {"first_k_dense_replace": 1}
    assert FirstDense().write(model(layers=("dense",))) == {"first_k_dense_replace": 4}
    with pytest.raises(UserError, match="dense layers after the first sparse one"):
        FirstDense().write(model(layers=("moe", "dense")))


def test_one_window_cannot_say_that_windows_differ():
    assert OneWindow(switch="on").write(model((8,))) == {"sliding_window": 8, "on": True}
    assert OneWindow(switch="on").write(model()) == {"sliding_window": None, "on": False}
    with pytest.raises(UserError, match=r"windows = \[8, 0\] differ"):
        OneWindow().write(model((8, 0)))


def test_windowed_layers_are_listed_and_have_one_size():
    table = WindowedLayers(usual=lambda fields, layer: False)
    assert table.write(model((8, 0))) == {
        "sliding_window": 8,
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
    }
    with pytest.raises(UserError, match=r"several sizes: \[4, 8\]"):
        table.write(model((8, 4)))


def test_the_shortest_pattern_may_be_cut_off_at_the_end():
    assert shortest_pattern("aaaa") == ("a",)
    assert shortest_pattern("abaab") == ("a", "b", "a")
    assert shortest_pattern("aab") == ("a", "a", "b")
