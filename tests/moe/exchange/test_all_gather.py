"""The `all_gather` transport honours the exchange contract."""

from support.exchange.exchange_contract import TOKENS, Case, Counts, ExchangeContract
from support.exchange.exchange_walk import at_experts


class TestAllGather(ExchangeContract):
    transport = "all_gather"
    seen_by = "the group"

    def walk(self, case: Case, experts_tk):
        """A device serves, of the tokens of its group, the choices of its own experts."""
        counts = Counts.none(case.devices)
        sizes = self.sizes_at_experts(case, case.expert * TOKENS, case.top_k)
        for device in range(case.devices):
            group, place = divmod(device, case.expert)
            first = group * case.expert
            arrived = []
            for q in range(first, first + case.expert):
                for t, chosen in enumerate(experts_tk[q * TOKENS : (q + 1) * TOKENS]):
                    arrived.append(
                        {
                            (k, int(e) % case.per_device): (q, t, k)
                            for k, e in enumerate(chosen)
                            if int(e) // case.per_device == place
                        }
                    )
            served = at_experts(arrived, case.top_k, case.per_device, sizes, case.overflow)
            counts.served |= served.choices
            counts.dropped[device] = served.dropped
            counts.rounds[device] = served.rounds
        return counts
