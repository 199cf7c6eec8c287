"""A layer's modelled time against what XLA compiles, and what hides behind what."""

import pytest
from support.planner.layer_models import MOE, NAIVE, layer_model


@pytest.mark.parametrize(
    ("name", "hosts", "layer_ms", "exchange_ms"),
    # XLA's timelines of a forward layer (README), where an attention call takes next to nothing.
    [
        ("paper_ep16", 2, 102, 43),
        ("paper_ep32", 4, 104, 62),
        ("paper_ep64", 8, 114, 71),
        ("paper_ep128", 16, 116, 77),
    ],
)
def test_forward_layer_is_within_15_percent_of_compiled(name, hosts, layer_ms, exchange_ms):
    layer = layer_model(name=name, mode="forward", hosts=hosts).forward(MOE)
    assert 1e3 * (layer.total - layer.attention) == pytest.approx(layer_ms, rel=0.15)
    assert 1e3 * layer.exchange == pytest.approx(exchange_ms, rel=0.15)


def test_backward_layer_is_within_15_percent_of_compiled():
    # 280 ms by XLA's timeline of the training step, all of its exchange hidden.
    layer = layer_model().backward(MOE)
    assert 1e3 * (layer.total - layer.attention) == pytest.approx(280, rel=0.15)
    assert layer.exposed == 0


def test_what_is_kept_is_not_computed_again():
    def backward(remat: str, *changes: str):
        return layer_model(f"train.remat={remat}", *changes).backward(MOE)

    full, model = backward("full"), layer_model()
    forward = model.compute.forward(MOE)
    assert full.attention - backward("attention").attention == pytest.approx(forward.attention)
    for name in ("residual", "qkv", "experts"):
        assert backward(name).matmul < full.matmul, name
    # The first of the experts' two products.
    spared = full.matmul - backward("experts").matmul
    assert spared == pytest.approx(model.compute.experts(MOE).matmul / 2)
    assert backward("dispatch").exchange < full.exchange
    sets = ("full", "attention", "attention+dispatch", "attention+dispatch+experts", "none")
    totals = [backward(remat).total for remat in sets]
    assert totals == sorted(totals, reverse=True)
    # Rows sent again hide behind the other streams.
    assert totals[1] == totals[2]
    assert len(set(totals)) == len(totals) - 1


def test_a_kept_residual_stream_spares_a_quarter_of_the_sums():
    full, kept = (
        layer_model(f"train.remat={remat}", name=NAIVE).backward(MOE).tensor
        for remat in ("full", "residual")
    )
    forward = layer_model(name=NAIVE).forward(MOE).tensor
    assert full - kept == pytest.approx(forward / 4)


def test_streams_hide_the_exchange():
    layers = [layer_model(f"exchange.streams={n}").forward(MOE) for n in (1, 2, 8)]
    shares = [layer.exposed / layer.exchange for layer in layers]
    assert shares[0] == pytest.approx(1)
    assert shares[0] > shares[1] > shares[2]


def test_streams_hide_tensor_parallel_sums():
    layers = [
        layer_model(f"exchange.streams={n}", name=NAIVE, mode="forward").forward(MOE)
        for n in (1, 2)
    ]
    assert layers[0].exposed == pytest.approx(layers[0].tensor)
    assert layers[1].exposed < 0.5 * layers[1].tensor


def test_weights_are_gathered_where_they_are_split():
    whole, split = (layer_model("mesh.expert=8", f"mesh.{axis}=2") for axis in ("data", "fsdp"))
    assert whole.forward(MOE).weights == 0 < split.forward(MOE).weights


def test_decode_prices_the_rows_that_it_sends():
    """128 rows of 4,096 bfloat16 values on each of 16 devices, there and back."""
    found = layer_model(mode="decode")
    message, trip = found.share.messages[0], found.forward(MOE).exchange / 2
    assert (message.kind, message.rows) == ("all-to-all", 128)
    seldom = layer_model("train.global_batch=16", mode="decode").forward(MOE).exchange / 2
    assert trip > seldom


@pytest.mark.parametrize(
    ("transport", "sent"), [("local", 0), ("all_gather", 1), ("all_to_all", 1)]
)
def test_only_rows_that_leave_a_device_take_time(transport, sent):
    layer = layer_model(f"exchange.transport={transport}", mode="forward").forward(MOE)
    assert (layer.exchange > 0) == bool(sent)
