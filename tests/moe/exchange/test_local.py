"""The `local` transport honours the exchange contract."""

from support.exchange.exchange_contract import Case, ExchangeContract


class TestLocal(ExchangeContract):
    transport = "local"
    queues_are = "per device"
    rounds_agree = False

    def count_moves(self, case: Case, by_device):
        """Every expert is everywhere: nothing moves."""
        nothing = [0] * case.devices
        return nothing, nothing
