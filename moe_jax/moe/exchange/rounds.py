"""Serving all rows with buffers of one fixed size: a main round, and more only where needed.

The main round moves `capacity` rows per (source, expert). If any queue is longer, one `cond` runs
further rounds of the same size until every token has been served. When nothing overflows the
further rounds cost one scalar reduction, and no memory beyond the main round's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe_jax.moe.exchange.combine import combine
from moe_jax.moe.exchange.contract import ExchangeSpec, ExpertsFn, Routing
from moe_jax.moe.exchange.rows import Queues, make_queues, to_rows, window
from moe_jax.moe.exchange.wire import Wire
from moe_jax.shapes import TokensTD

#: Names what arrived from other devices in the main round, for rematerialisation policies. Those of
#: further rounds have no name: a policy would keep all of them, whether they take place or not.
RECEIVED = "exchange_received"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Combined:
    """The combined output, and the counts that `ExchangeStats` needs (float32 scalars)."""

    y_td: TokensTD
    dropped: Float[Array, ""]
    rounds: Float[Array, ""]
    padded: Float[Array, ""]


def run_by_spec(
    x_td: TokensTD,
    routing: Routing,
    experts_fn: ExpertsFn,
    wire: Wire,
    spec: ExchangeSpec,
    *,
    tokens: int | None = None,
) -> Combined:
    """Run the rounds that a spec's transport asks for.

    Args:
        x_td: tokens that this device puts into rows.
        routing: their choices, numbered by the transport's queues.
        experts_fn: as for `run_rounds`.
        wire: how rows reach the experts.
        spec: gives the sizes of a round.
        tokens: that the transport counts by, where they are others than those of `x_td`.
    """
    shown, top_k = routing.experts_tk.shape
    return run_rounds(
        x_td,
        routing,
        experts_fn,
        wire,
        num_experts=spec.transport.queues(spec),
        capacity=spec.transport.capacity(spec, tokens or shown, top_k),
        overflow=spec.overflow,
    )


def run_rounds(
    x_td: TokensTD,
    routing: Routing,
    experts_fn: ExpertsFn,
    wire: Wire,
    *,
    num_experts: int,
    capacity: int,
    overflow: Literal["rounds", "drop"],
) -> Combined:
    """Send rows through `experts_fn` and sum them per token, weighted.

    Args:
        x_td: this device's tokens.
        routing: experts numbered 0 to num_experts - 1; others are not served and not counted.
        experts_fn: rows [l, sources * capacity, d] to rows of the same shape.
        wire: how rows reach the experts.
        num_experts: queues on this device.
        capacity: rows per queue and round.
        overflow: what happens to rows beyond the capacity.
    """
    queues = make_queues(routing.experts_tk, num_experts)

    def one_round(index: Int[Array, ""] | int) -> TokensTD:
        return _round(x_td, routing, queues, index, experts_fn, wire, capacity)

    y_td = one_round(0)
    longest = jnp.max(queues.length_e)
    most_rounds = -(-x_td.shape[0] // capacity)
    served = jnp.minimum(queues.length_e, capacity).sum()
    extra = jnp.zeros((), jnp.int32)
    if overflow == "rounds":
        served = queues.length_e.sum()
    if overflow == "rounds" and most_rounds > 1:
        # Decided behind the main round, so that no dispatch waits for the decision: XLA keeps one
        # collective in flight, and all streams' decisions are one.
        longest, y_td = jax.lax.optimization_barrier((longest, y_td))
        # Empty queues (a device whose experts nobody chose) still take the main round.
        extra = wire.agree(jnp.maximum(-(-longest // capacity) - 1, 0))
        y_td = _further_rounds(one_round, extra, most_rounds, y_td)
    slots = (1 + extra) * (num_experts * capacity)
    counts = (queues.length_e.sum() - served, extra, slots - served)
    return Combined(y_td, *(count.astype(jnp.float32) for count in counts))


def _round(
    x_td: TokensTD,
    routing: Routing,
    queues: Queues,
    index: Int[Array, ""] | int,
    experts_fn: ExpertsFn,
    wire: Wire,
    capacity: int,
) -> TokensTD:
    """One trip to the experts and back; the main round's index is a plain 0."""
    at = window(queues, index, capacity)
    rows_ecd = to_rows(x_td, at).reshape(-1, capacity, x_td.shape[-1])
    received_lrd = wire.to_experts(rows_ecd)
    if isinstance(index, int):
        received_lrd = checkpoint_name(received_lrd, RECEIVED)
    return combine(wire, capacity, experts_fn(received_lrd), routing.weights_tk, at)


def _further_rounds(
    one_round: Callable[[Int[Array, ""]], TokensTD],
    extra: Int[Array, ""],
    most_rounds: int,
    y_td: TokensTD,
) -> TokensTD:
    """Add rounds 1 to `extra`. Nothing of a round is kept for backward: it is run again.

    The main round's result goes through the branch, which so comes after it.

    Args:
        one_round: the tokens' sums of a round, by its number.
        extra: rounds beyond the main one, agreed upon.
        most_rounds: that there can be, the main one included.
        y_td: what the main round gave.
    """

    @jax.checkpoint
    def step(y_td: TokensTD, index: Int[Array, ""]) -> tuple[TokensTD, None]:
        more = jax.lax.cond(index <= extra, one_round, lambda _: jnp.zeros_like(y_td), index)
        return y_td + more, None

    def run(y_td: TokensTD) -> TokensTD:
        return jax.lax.scan(step, y_td, jnp.arange(1, most_rounds, dtype=jnp.int32))[0]

    return jax.lax.cond(extra > 0, jax.checkpoint(run), lambda y_td: y_td, y_td)
