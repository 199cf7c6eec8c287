"""The `all_gather` transport honours the exchange contract."""

from support.exchange.exchange_contract import ExchangeContract


class TestAllGather(ExchangeContract):
    transport = "all_gather"
    queues_are = "per group"
    rounds_agree = False
