"""The `all_to_all` transport honours the exchange contract."""

import numpy as np
from support.exchange.exchange_contract import (
    SIZE,
    TOKENS,
    Case,
    Counts,
    ExchangeContract,
    make_spec,
)
from support.exchange.exchange_walk import Served, Sizes, at_experts, visits

from moe_jax.moe.exchange.beside import spare_rows
from moe_jax.moe.exchange.contract import whole_rows


class TestAllToAll(ExchangeContract):
    transport = "all_to_all"
    seen_by = "one device"

    def walk(self, case: Case, experts_tk):
        """Tokens queue at their device for each other one; what arrives together is served so."""
        counts = Counts.none(case.devices)
        for group in range(case.data):
            self._walk_group(case, experts_tk, group * case.expert, counts)
        return counts

    def _walk_group(self, case: Case, experts_tk, first: int, counts: Counts) -> None:
        spec = make_spec(self.transport, case)
        places = spec.transport.arrivals(spec, TOKENS, case.top_k) // case.expert
        step = whole_rows(spec.round_fraction * places, int(np.gcd(8, places)))
        devices = range(first, first + case.expert)
        queues = {
            p: visits(experts_tk[p * TOKENS : (p + 1) * TOKENS], p, case.per_device)
            for p in devices
        }
        longest = max(len(queue) for own in queues.values() for queue in own.values())
        rounds = Sizes(places, step, TOKENS).further(longest, case.overflow)
        windows = [slice(0, places)]
        windows += [slice(places + i * step, places + (i + 1) * step) for i in range(rounds)]
        for p in devices:
            here = Served()
            for window in windows:
                here.add(self._serve(case, queues, p - first, window))
            end = windows[-1].stop
            visitors = {q: len(queue) for q, queue in queues[p].items()}
            lost = sum(len(v) for queue in queues[p].values() for v in queue[end:])
            counts.served |= here.choices
            counts.dropped[p] = lost + here.dropped
            counts.rounds[p] = rounds + here.rounds
            counts.padded[p] = case.expert * end - sum(min(n, end) for n in visitors.values())
            counts.off_device[p] = sum(n for q, n in visitors.items() if first + q != p)
            counts.off_host[p] = sum(
                n for q, n in visitors.items() if case.hosts[first + q] != case.hosts[p]
            )

    def _serve(self, case: Case, queues, place: int, window: slice) -> Served:
        size = window.stop - window.start
        arrived = []
        for own in queues.values():
            queue = own.get(place, [])[window]
            arrived += queue + [None] * (size - len(queue))
        if case.per_device == 1:
            # One row for each, whoever's.
            return Served({choice for token in arrived if token for choice in token.values()})
        # Weights and numbers travel in rows of their own, which are arrivals too.
        spare = spare_rows(size, 2 * case.top_k, SIZE, "float32")
        sizes = self.sizes_at_experts(case, case.expert * (size + spare), case.top_k)
        return at_experts(arrived, case.top_k, case.per_device, sizes, case.overflow)
