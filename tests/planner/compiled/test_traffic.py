"""Rows and batches of a device, from the config alone; the bytes of real programs: test_plan.py."""

import pytest

from moe_jax.config import Config, override
from moe_jax.planner.compiled.traffic import Batch, device_batch, exchange_rows

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


def test_a_devices_batch():
    # 32 sequences over 2 microbatches, 2 streams and 4 devices: 2 of 100 tokens.
    assert device_batch(EP4) == Batch(2, 2, 200)


def test_decoding_has_a_token_of_each_sequence():
    assert device_batch(EP4, "decode") == Batch(1, 1, 8)
    assert device_batch(override(EP4, ["mesh.tensor=2"]), "decode") == Batch(1, 1, 8)
    rows = exchange_rows(override(EP4, ["exchange.transport=all_to_all"]), "decode")
    assert rows.filled == 3 * 8 * 2


def test_microbatches_of_a_pipeline_and_the_tensor_axis_split_it_further():
    more = override(EP4, ["mesh.pipe=2", "pipeline.microbatches=2", "mesh.tensor=2"])
    assert device_batch(more) == Batch(4, 2, 50)
    whole = override(more, ["sharding.sequence=whole"])
    assert device_batch(whole) == Batch(4, 2, 100)


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
    rows = exchange_rows(override(EP4, [f"exchange.transport={transport}"]))
    slices = 3 * 2 * 2
    assert rows.filled == slices * 400
    assert rows.padded == slices * (slots - 400)


def test_dense_model_has_no_rows():
    assert exchange_rows(override(EP4, ['model.layers=["dense"]'])) is None
