"""The exchange: one contract (`contract.py`), several transports, chosen by name."""

from functools import partial

from moe_jax.moe.exchange.all_gather import all_gather
from moe_jax.moe.exchange.all_to_all import all_to_all
from moe_jax.moe.exchange.contract import Exchange, ExchangeSpec, ExchangeStats, Routing
from moe_jax.moe.exchange.local import local

TRANSPORTS = {"local": local, "all_gather": all_gather, "all_to_all": all_to_all}


def make_exchange(spec: ExchangeSpec) -> Exchange:
    """Returns the exchange that `spec` names."""
    return partial(TRANSPORTS[spec.transport], spec=spec)


__all__ = ["TRANSPORTS", "Exchange", "ExchangeSpec", "ExchangeStats", "Routing", "make_exchange"]
