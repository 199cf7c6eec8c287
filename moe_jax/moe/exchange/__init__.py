"""The exchange: one contract (`contract.py`), several transports, chosen by name (`choose.py`)."""

from dataclasses import dataclass

from moe_jax.config.schema import TransportName
from moe_jax.moe.exchange.all_gather import AllGather
from moe_jax.moe.exchange.all_to_all import AllToAll
from moe_jax.moe.exchange.contract import (
    ExchangeSpec,
    ExchangeStats,
    ExpertsOfDevice,
    Routing,
    Transport,
)
from moe_jax.moe.exchange.local import Local
from moe_jax.shapes import BatchBSD
from moe_jax.sharding.tensor import ONE, TensorAxis

#: Of equally cheap ones, "auto" takes the first.
TRANSPORTS: dict[TransportName, Transport] = {
    transport.name: transport for transport in (AllToAll(), AllGather(), Local())
}


@dataclass(frozen=True)
class Exchange:
    """The exchange that `spec` describes; `contract.py` says what a call does."""

    spec: ExchangeSpec

    def __call__(
        self,
        x_bsd: BatchBSD,
        routing: Routing,
        experts: ExpertsOfDevice,
        tensor: TensorAxis = ONE,
    ) -> tuple[BatchBSD, ExchangeStats]:
        """Return y_bsd and this device's counts; see `Transport.__call__`."""
        return self.spec.transport(x_bsd, routing, experts, self.spec, tensor)


__all__ = ["TRANSPORTS", "Exchange", "ExchangeSpec", "ExchangeStats", "Routing", "Transport"]
