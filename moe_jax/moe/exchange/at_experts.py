"""The last step of an exchange: tokens that are here, to the experts that are here, and summed.

Rows are sorted by expert with their counts beside them, so experts cost what their rows cost. The
device's experts share one buffer: what one leaves another uses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe_jax.moe.exchange.contract import ExchangeSpec, ExpertsFn, Routing, whole_rows
from moe_jax.moe.exchange.rounds import further_rounds, run_rounds
from moe_jax.moe.exchange.rows import (
    Queues,
    from_rows,
    make_queues,
    packed_window,
    to_rows,
    weights_to_rows,
)
from moe_jax.shapes import TokensTD
from moe_jax.sharding.tensor import TensorAxis

#: Names the experts' values before their activation in the main round, for rematerialisation
#: policies; see `hop.RECEIVED`.
HIDDEN = "experts_hidden"


@dataclass(frozen=True)
class AtExperts:
    """How a device serves the tokens that reached it.

    Attributes:
        experts_fn: the experts' MLPs; see `contract.ExpertsFn`.
        spec: of the exchange.
        tensor: the tensor axis. Each of its devices serves the tokens of the whole axis, with its
            part of each expert.
    """

    experts_fn: ExpertsFn
    spec: ExchangeSpec
    tensor: TensorAxis

    def __call__(
        self, params: Any, x_td: TokensTD, routing: Routing
    ) -> tuple[TokensTD, Float[Array, "2"]]:
        """Serve this device's experts.

        Args:
            params: of the experts.
            x_td: tokens.
            routing: experts numbered from 0 on this device; others are somebody else's, and have
                weight 0.

        Returns:
            sum_k weights_tk * expert(x_t) over the experts here; choices that were dropped, and
            further rounds.
        """
        spec, tensor = self.spec, self.tensor
        experts = spec.experts_here
        x_td, experts_tk, weights_tk = (
            tensor.enter(a, dim=0) for a in (x_td, routing.experts_tk, routing.weights_tk)
        )
        tokens, top_k = experts_tk.shape
        rows = spec.transport.expert_rows(spec, tokens, top_k)
        if experts == top_k == 1 and rows >= tokens:
            # A row for every token, in order already.
            y_td = _through(
                self.experts_fn, params, lambda x: x, x_td, None, weights_tk[:, 0], HIDDEN
            )
            return tensor.leave(y_td, dim=0), jnp.zeros(2, jnp.float32)
        step = whole_rows(spec.round_fraction * rows)
        queues = make_queues(experts_tk, experts)
        may_overflow = spec.overflow == "rounds" and rows < tokens * min(top_k, experts)
        y_td, _, extra = run_rounds(
            partial(_round, self.experts_fn),
            (params, x_td, weights_tk),
            queues,
            partial(_decide, rows, step) if may_overflow else None,
            main=rows,
            step=step,
        )
        length = queues.length_g.sum()
        served = jnp.minimum(length, rows + extra * step)
        counts = jnp.stack([length - served, extra]).astype(jnp.float32)
        # What the devices of the tensor axis did together counts once.
        return tensor.leave(y_td, dim=0), counts / tensor.token_shards


def _round(
    experts_fn: ExpertsFn, operands: Any, queues: Queues, first: Int[Array, ""] | int, rows: int
) -> tuple[TokensTD, Float[Array, ""]]:
    params, x_td, weights_tk = operands
    at, sizes_l = packed_window(queues, first, rows)
    weights_r = weights_to_rows(weights_tk, at)
    name = HIDDEN if isinstance(first, int) else ""
    rows_of = partial(to_rows, at=at)
    out_rd = _through(experts_fn, params, rows_of, x_td, sizes_l, weights_r, name)
    return from_rows(out_rd, at), jnp.zeros((), jnp.float32)


def _decide(rows: int, step: int, queues: Queues, counts: Any) -> Int[Array, ""]:
    return further_rounds(queues.length_g.sum(), rows, step)


def _through(
    experts_fn: ExpertsFn,
    params: Any,
    rows_of: Callable[[TokensTD], Float[Array, "r d"]],
    x_td: TokensTD,
    sizes_l: Int[Array, " l"] | None,
    weights_r: Float[Array, " r"],
    name: str,
) -> Float[Array, "r d"]:
    """Return the experts' outputs; backward finds tokens and hidden values, gathers rows again."""

    def up(params: Any, x_td: TokensTD) -> Any:
        return experts_fn.up(params, rows_of(x_td), sizes_l)

    def down(params: Any, hidden: Any, weights_r: Array) -> Array:
        return experts_fn.down(params, hidden, sizes_l, weights_r)

    hidden = jax.checkpoint(up, prevent_cse=False)(params, x_td)
    if name:
        hidden = checkpoint_name(hidden, name)
    return jax.checkpoint(down, prevent_cse=False)(params, hidden, weights_r)
