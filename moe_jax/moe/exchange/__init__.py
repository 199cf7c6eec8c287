"""The exchange: one contract (`contract.py`), several transports, chosen by name."""

from dataclasses import dataclass

from moe_jax.moe.exchange.all_gather import all_gather
from moe_jax.moe.exchange.all_to_all import all_to_all
from moe_jax.moe.exchange.contract import ExchangeSpec, ExchangeStats, ExpertsFn, Routing
from moe_jax.moe.exchange.local import local
from moe_jax.shapes import TokensTD

TRANSPORTS = {"local": local, "all_gather": all_gather, "all_to_all": all_to_all}


@dataclass(frozen=True)
class Exchange:
    """The exchange that `spec` describes; `contract.py` says what a call does."""

    spec: ExchangeSpec

    def __call__(
        self, x_td: TokensTD, routing: Routing, experts_fn: ExpertsFn
    ) -> tuple[TokensTD, ExchangeStats]:
        return TRANSPORTS[self.spec.transport](x_td, routing, experts_fn, self.spec)


__all__ = ["TRANSPORTS", "Exchange", "ExchangeSpec", "ExchangeStats", "Routing"]
