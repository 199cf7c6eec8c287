"""The `all_to_all` transport honours the exchange contract."""

from support.exchange.exchange_contract import ExchangeContract


class TestAllToAll(ExchangeContract):
    transport = "all_to_all"
    queues_are = "per device"
    rounds_agree = True
