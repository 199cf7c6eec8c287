"""Which transport an exchange has: `"auto"` counts the rows each would send."""

import logging

import pytest

from moe_jax.config.schema import Config, ExchangeConfig
from moe_jax.moe.exchange.choose import cheapest_spec, choose_spec, make_spec


def config(transport: str = "auto", top_k: int = 2) -> Config:
    base = Config()
    moe = base.model.moe.model_copy(update={"num_experts": 16, "top_k": top_k})
    exchange = base.exchange.model_copy(update={"transport": transport})
    return base.model_copy(
        update={"model": base.model.model_copy(update={"moe": moe}), "exchange": exchange}
    )


def test_rows_are_counted_both_ways_and_only_to_others():
    # 2 choices among 16 experts are on 1.9333 of 8 devices: 512 x 1.9333 / 8 x 1.25 = 155.
    rows = {"all_to_all": 2 * 7 * 155, "all_gather": 2 * 7 * 512, "local": 0}
    for name, count in rows.items():
        spec = make_spec(config().exchange, name, 16, 8)
        assert spec.transport.rows_sent(spec, 512, 2) == count


@pytest.mark.parametrize(
    ("tokens", "top_k", "devices", "wanted"),
    [
        (512, 2, 8, "all_to_all"),  # training
        (1, 2, 8, "all_gather"),  # decoding: padding to a row per device is sending it everywhere
        (512, 8, 4, "all_gather"),  # many choices per token: sending it everywhere is less
        (512, 2, 1, "local"),
    ],
)
def test_auto_takes_the_transport_that_sends_least(tokens, top_k, devices, wanted):
    assert choose_spec(config(top_k=top_k), devices, tokens).transport.name == wanted


@pytest.mark.parametrize("name", ["local", "all_gather", "all_to_all"])
def test_an_explicit_transport_is_taken(name):
    assert choose_spec(config(name), 8, 1).transport.name == name


def test_the_choice_is_logged_with_its_numbers(caplog):
    with caplog.at_level(logging.INFO, logger="moe_jax.moe.exchange.choose"):
        choose_spec(config(), 8, 512)
    assert "all_to_all 2170" in caplog.text
    assert "all_gather 7168" in caplog.text


def test_experts_that_do_not_divide_are_refused_with_both_values():
    with pytest.raises(ValueError, match=r"num_experts \(6\).*expert axis \(4\)"):
        make_spec(ExchangeConfig(), "all_to_all", 6, 4, (0, 0, 0, 0))


@pytest.mark.parametrize("transport", ["local", "all_gather", "all_to_all"])
def test_one_device_has_nobody_to_exchange_with(transport):
    assert make_spec(ExchangeConfig(), transport, 4, 1, (0,)).transport.name == "local"
    assert make_spec(ExchangeConfig(), transport, 4, 2, (0, 0)).transport.name == transport


def test_what_does_not_spread_evenly_is_counted_where_nobody_runs_it():
    with pytest.raises(ValueError, match=r"num_experts \(16\).*expert axis \(3\)"):
        choose_spec(config(), 3, 512)
    assert cheapest_spec(config(), 3, 512).devices == 3
