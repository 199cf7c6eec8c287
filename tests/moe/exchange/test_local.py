"""The `local` transport honours the exchange contract."""

from support.exchange.exchange_contract import TOKENS, Case, Counts, ExchangeContract


class TestLocal(ExchangeContract):
    transport = "local"
    seen_by = "one device"

    def walk(self, case: Case, experts_tk):
        """Everybody is served where he is, in one round."""
        counts = Counts.none(case.devices)
        counts.served = {
            (t // TOKENS, t % TOKENS, k)
            for t in range(len(experts_tk))
            for k in range(experts_tk.shape[1])
        }
        return counts
