"""`transport = "auto"` counts the rows each transport would send."""

import logging

import pytest

from moe_jax.config.schema import Config
from moe_jax.moe.exchange.choose import choose_transport, rows_sent


def config(transport: str = "auto", top_k: int = 2) -> Config:
    base = Config()
    moe = base.model.moe.model_copy(update={"num_experts": 16, "top_k": top_k})
    exchange = base.exchange.model_copy(update={"transport": transport})
    return base.model_copy(
        update={"model": base.model.model_copy(update={"moe": moe}), "exchange": exchange}
    )


def test_rows_are_counted_both_ways_and_only_to_others():
    # 512 tokens x 2 / 16 experts x 1.25 = 80 rows per expert; 7 other devices hold 2 each.
    assert rows_sent("all_to_all", 512, config(), 8) == 2 * 7 * 2 * 80
    assert rows_sent("all_gather", 512, config(), 8) == 2 * 7 * 512
    assert rows_sent("local", 512, config(), 8) == 0


@pytest.mark.parametrize(
    ("tokens", "top_k", "devices", "wanted"),
    [
        (512, 2, 8, "all_to_all"),  # training
        (1, 2, 8, "all_gather"),  # decoding: padding to 1 row per expert is 2 rows per device
        (512, 8, 4, "all_gather"),  # many choices per token: sending it everywhere is less
        (512, 2, 1, "local"),
    ],
)
def test_auto_takes_the_transport_that_sends_least(tokens, top_k, devices, wanted):
    assert choose_transport(config(top_k=top_k), devices, tokens) == wanted


@pytest.mark.parametrize("name", ["local", "all_gather", "all_to_all"])
def test_an_explicit_transport_is_taken(name):
    assert choose_transport(config(name), 8, 1) == name


def test_the_choice_is_logged_with_its_numbers(caplog):
    with caplog.at_level(logging.INFO, logger="moe_jax.moe.exchange.choose"):
        choose_transport(config(), 8, 512)
    assert "all_to_all 2240" in caplog.text
    assert "all_gather 7168" in caplog.text
