"""Turns the counts of one exchange into `ExchangeStats`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe_jax.axes import BATCH_AXES
from moe_jax.moe.exchange.contract import (
    ExchangeCounts,
    ExchangeSpec,
    ExchangeStats,
    Routing,
    load_per_expert,
)


def stayed(counts: Float[Array, "2"]) -> ExchangeCounts:
    """Return the counts of an exchange that sends no tokens, from those at the experts."""
    nothing = jnp.zeros((), jnp.float32)
    return ExchangeCounts(jnp.zeros(0, jnp.float32), counts[0], counts[1], nothing)


def exchange_stats(routing: Routing, spec: ExchangeSpec, counts: ExchangeCounts) -> ExchangeStats:
    """Return the statistics of this device's tokens. Runs inside `on_device_shards`."""
    load_e = load_per_expert(routing.experts_tk, spec.num_experts).astype(jnp.float32)
    off_device = off_host = jnp.zeros((), jnp.float32)
    if counts.sent_g.size:
        position = jax.lax.axis_index(BATCH_AXES)
        own_pg, near_pg = (jnp.asarray(table) for table in _reach(spec))
        off_device = (counts.sent_g * (1 - own_pg[position])).sum()
        off_host = (counts.sent_g * (1 - near_pg[position])).sum()
    return ExchangeStats(
        load_e=load_e,
        rows_sent=load_e.sum() - counts.dropped,
        rows_padded=counts.padded,
        rows_dropped=counts.dropped,
        overflow_rounds=counts.rounds,
        rows_off_device=off_device,
        rows_off_host=off_host,
    )


def _reach(spec: ExchangeSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return for each device position which group is itself, and which are on its host [p, g]."""
    positions = np.arange(len(spec.hosts))
    first_in_group = positions - positions % spec.devices
    holder_pg = first_in_group[:, None] + np.arange(spec.devices)[None, :]
    hosts = np.asarray(spec.hosts)
    own_pg = holder_pg == positions[:, None]
    near_pg = hosts[holder_pg] == hosts[:, None]
    return own_pg.astype(np.float32), near_pg.astype(np.float32)
