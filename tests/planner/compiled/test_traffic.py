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


#: 2 of 8 experts are on 4 x (1 - (6 x 5) / (8 x 7)) of 4 devices with two each.
VISITS = 4 * (1 - 6 * 5 / (8 * 7))


def test_decoding_has_a_token_of_each_sequence():
    rows = exchange_rows(override(EP4, ["exchange.transport=all_to_all"]), "decode")
    assert rows.filled == 3 * round(8 * VISITS)
    assert rows.filled + rows.padded == 3 * 4 * 8


@pytest.mark.parametrize(
    ("transport", "filled", "slots"),
    [
        # 1.5 x 200 x 1.857 / 4 = 139.3 places for each device, 140 so that 4 sources make 8s.
        ("all_to_all", round(200 * VISITS), 4 * 140),
        # All 800 tokens come, each to a place of its own.
        ("all_gather", 800, 800),
        # They stay where they are.
        ("local", 200, 200),
    ],
)
def test_places_of_each_transport(transport, filled, slots):
    rows = exchange_rows(override(EP4, [f"exchange.transport={transport}"]), "forward")
    slices = 3 * 2 * 2
    assert rows.filled == slices * filled
    assert rows.padded == slices * (slots - filled)


def test_dense_model_has_no_rows():
    assert exchange_rows(override(EP4, ['model.layers=["dense"]']), "forward") is None


def test_a_device_of_the_tensor_axis_counts_its_own():
    alone = ["mesh.expert=1", "mesh.data=2", "mesh.tensor=2", "exchange.transport=local"]
    rows = exchange_rows(override(EP4, alone), "forward")
    assert (rows.filled, rows.padded) == (3 * 2 * 2 * 200, 0)
