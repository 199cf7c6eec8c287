"""Turns the counts of one exchange into `ExchangeStats`."""

import jax
import jax.numpy as jnp
import numpy as np

from moe_jax.axes import BATCH_AXES
from moe_jax.moe.exchange.contract import ExchangeSpec, ExchangeStats, Routing, load_per_expert
from moe_jax.moe.exchange.rounds import Combined


def exchange_stats(routing: Routing, combined: Combined, spec: ExchangeSpec) -> ExchangeStats:
    """Return the statistics of this device's rows. Runs inside `on_device_shards`."""
    load_e = load_per_expert(routing.experts_tk, spec.num_experts).astype(jnp.float32)
    total = load_e.sum()
    position = jax.lax.axis_index(BATCH_AXES)
    on_device, on_host = (jnp.asarray(table)[position] for table in _reach(spec))
    moves = 0.0 if spec.transport.gathers_experts else 1.0
    return ExchangeStats(
        load_e=load_e,
        rows_sent=total - combined.dropped,
        rows_padded=combined.padded,
        rows_dropped=combined.dropped,
        overflow_rounds=combined.rounds,
        rows_off_device=moves * (total - (load_e * on_device).sum()),
        rows_off_host=moves * (total - (load_e * on_host).sum()),
    )


def _reach(spec: ExchangeSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return for each device position which experts it holds, and which its host holds [p, e]."""
    positions = np.arange(len(spec.hosts))
    device_of_e = np.arange(spec.num_experts) // spec.experts_per_device
    first_in_group = positions - positions % spec.devices
    holder_pe = first_in_group[:, None] + device_of_e[None, :]
    hosts = np.asarray(spec.hosts)
    on_device = holder_pe == positions[:, None]
    on_host = hosts[holder_pe] == hosts[:, None]
    return on_device.astype(np.float32), on_host.astype(np.float32)
