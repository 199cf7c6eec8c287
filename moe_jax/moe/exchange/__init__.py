"""The exchange: one contract (`contract.py`), several transports, chosen by name (`choose.py`)."""

from dataclasses import dataclass
from typing import Any

from moe_jax.config.schema import TransportName
from moe_jax.moe.exchange.all_gather import AllGather
from moe_jax.moe.exchange.all_to_all import AllToAll
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsFn,
    Routing,
    Transport,
)
from moe_jax.moe.exchange.local import Local
from moe_jax.shapes import TokensTD
from moe_jax.sharding.tensor import ONE, TensorAxis

#: Of equally cheap ones, "auto" takes the first: the one that has fewer steps.
TRANSPORTS: dict[TransportName, Transport] = {
    transport.name: transport for transport in (AllGather(), AllToAll(), Local())
}


@dataclass(frozen=True)
class Exchange:
    """The exchange that `spec` describes; `contract.py` says what a call does."""

    spec: ExchangeSpec

    def __call__(
        self,
        params: Any,
        x_td: TokensTD,
        routing: Routing,
        experts_fn: ExpertsFn,
        tensor: TensorAxis = ONE,
    ) -> tuple[TokensTD, ExchangeStats]:
        """Return y_td and this device's counts; see `Transport.__call__`."""
        return self.spec.transport(params, x_td, routing, experts_fn, self.spec, tensor)


__all__ = ["TRANSPORTS", "Exchange", "ExchangeSpec", "ExchangeStats", "Routing", "Transport"]
