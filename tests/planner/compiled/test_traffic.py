"""Rows of a device, from the config alone; the bytes of real programs: test_planning.py."""

import pytest

from moe_jax.config import Config, override
from moe_jax.planner.compiled.traffic import exchange_rows

EP4 = override(
    Config(),
    [
        "mesh.expert=4",
        "model.num_layers=3",
        "model.moe.num_experts=8",
        "model.moe.top_k=2",
        "train.global_batch=32",
        "data.sequence_length=100",
        "exchange.streams=2",
        "train.accumulation=2",
        "exchange.capacity_factor=1.5",
    ],
)


def test_decoding_has_a_token_of_each_sequence():
    rows = exchange_rows(override(EP4, ["exchange.transport=all_to_all"]), "decode")
    assert rows.filled == 3 * 8 * 2


@pytest.mark.parametrize(
    ("transport", "slots"),
    [
        # 1.5 x 200 x 2 / 8 = 75 rows per expert and source, 76 so that 4 sources make 8s.
        ("all_to_all", 8 * 76),
        # Of all 800 tokens: 300 rows for each of the 2 experts here, 304 in 8s.
        ("all_gather", 2 * 304),
        # 75 rows for each of 8 experts, 80 in 8s.
        ("local", 8 * 80),
    ],
)
def test_rows_of_each_transport(transport, slots):
    rows = exchange_rows(override(EP4, [f"exchange.transport={transport}"]), "forward")
    slices = 3 * 2 * 2
    assert rows.filled == slices * 400
    assert rows.padded == slices * (slots - 400)


def test_dense_model_has_no_rows():
    assert exchange_rows(override(EP4, ['model.layers=["dense"]']), "forward") is None


def test_rows_of_a_tensor_axis_that_works_together_count_once():
    """1.5 x 400 x 2 / 8 = 150 rows of each expert, 152 in 8s, for two devices with 200 tokens."""
    alone = ["mesh.expert=1", "mesh.data=2", "mesh.tensor=2", "exchange.transport=local"]
    rows = exchange_rows(override(EP4, alone), "forward")
    assert rows.filled == 3 * 2 * 2 * 400
    assert rows.padded == 3 * 2 * 2 * (8 * 152 - 800) // 2
