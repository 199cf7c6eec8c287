"""One step of an exchange between devices: a token goes once to each group that it has a choice in.

Its choices (expert numbers and weights) travel with it; the group sums over them, so that one row
comes back. What a group does with its tokens is the next step's business.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from moe_jax.moe.exchange.beside import read_beside, spare_rows, write_beside
from moe_jax.moe.exchange.constants import iota, where
from moe_jax.moe.exchange.contract import ExchangeCounts, Overflow, Routing, whole_rows
from moe_jax.moe.exchange.rounds import further_rounds, run_rounds
from moe_jax.moe.exchange.rows import (
    Queues,
    from_rows,
    make_queues,
    padded_window,
    taken_or,
    to_rows,
    token_of,
)
from moe_jax.shapes import ChoicesTK, TokensTD, WeightsTK

#: Names what arrived from other devices in the main round, for rematerialisation policies. Those of
#: further rounds have no name: a policy would keep all of them, whether they take place or not.
RECEIVED = "exchange_received"

#: Moves [groups * c, ...] to the groups, as [sources * c, ...], and so back: its own transpose.
Move = Callable[[Array], Array]
#: (params, x_td, routing) -> (y_td, counts): how a group serves the tokens that reached it.
Serve = Callable[[Any, TokensTD, Routing], tuple[TokensTD, Array]]


@dataclass(frozen=True)
class Hop:
    """A step to the groups of the next level.

    Attributes:
        groups: how many there are; group g has experts [g * experts, (g + 1) * experts).
        experts: in each group.
        move: how rows travel.
        agree: the maximum over the devices that take part in one round together.
        rows: tokens per group in the main round.
        round_fraction: size of a further round, of the main round's.
        overflow: what happens to tokens beyond the main round's.
    """

    groups: int
    experts: int
    move: Move
    agree: Callable[[Int[Array, ""]], Int[Array, ""]]
    rows: int
    round_fraction: float
    overflow: Overflow

    @property
    def step(self) -> int:
        """Tokens per group in a further round."""
        return whole_rows(self.round_fraction * self.rows, math.gcd(8, self.rows))

    def spare(self, rows: int, x_td: TokensTD, top_k: int) -> int:
        """Return the rows of a block that hold its tokens' choices."""
        numbers = numbers_beside(top_k, self.experts)
        return spare_rows(rows, numbers, x_td.shape[1], x_td.dtype)

    def __call__(
        self, params: Any, x_td: TokensTD, routing: Routing, serve: Serve
    ) -> tuple[TokensTD, ExchangeCounts]:
        """Return sum_k weights_tk * expert[experts_tk](x_t), served by the groups.

        Args:
            params: of the experts, handed on.
            x_td: this device's tokens.
            routing: experts numbered over all groups; others are not served.
            serve: the next step; it closes over no arrays.
        """
        groups_tk = routing.experts_tk // self.experts
        first_tk = _first_of_group(groups_tk)
        own = iota(groups_tk.shape[1], first_tk)
        queues = make_queues(where(first_tk == own, groups_tk, self.groups), self.groups)
        may_overflow = self.overflow == "rounds" and self.rows < x_td.shape[0]
        y_td, (counts, _), extra = run_rounds(
            partial(_round, self, serve),
            (params, x_td, routing.weights_tk),
            (queues, routing.experts_tk, first_tk),
            partial(_decide, self) if may_overflow else None,
            main=self.rows,
            step=self.step,
        )
        places = self.rows + extra * self.step
        reached_tk = jnp.take_along_axis(queues.rank_tk, first_tk, axis=1) < places
        valid_tk = groups_tk < self.groups
        served = jnp.minimum(queues.length_g, places).sum()
        return y_td, ExchangeCounts(
            sent_g=queues.length_g.astype(jnp.float32),
            dropped=(valid_tk & ~reached_tk).sum().astype(jnp.float32) + counts[0],
            rounds=extra.astype(jnp.float32) + counts[1],
            padded=(self.groups * places - served).astype(jnp.float32),
        )


def _round(
    hop: Hop,
    serve: Serve,
    operands: Any,
    fixed: Any,
    first: Int[Array, ""] | int,
    rows: int,
) -> tuple[TokensTD, tuple[Array, Int[Array, ""]]]:
    """One trip to the groups and back; the main round's `first` is a plain 0.

    Returns:
        What it contributes, and its counts: the group's, and of the main round the longest queue.
    """
    params, x_td, weights_tk = operands
    queues, experts_tk, first_tk = fixed
    weights_rk, numbers_rk = _choices(hop, experts_tk, weights_tk, first_tk, queues, first, rows)
    at = padded_window(queues, first, rows, hop.spare(rows, x_td, weights_tk.shape[1]))
    arrived = _travel(hop, rows, to_rows(x_td, at), weights_rk, numbers_rk)
    longest = jnp.zeros((), jnp.int32)
    if isinstance(first, int):
        arrived = checkpoint_name(arrived, RECEIVED)
        longest = queues.length_g.max()
    received_rd, weights_rk, numbers_rk = cast(tuple[Array, Array, Array], arrived)
    routing = _of_all_rows(hop, rows, received_rd, weights_rk, numbers_rk)
    y_rd, counts = serve(params, received_rd, routing)
    return from_rows(hop.move(y_rd), at), (counts, longest)


def _decide(hop: Hop, fixed: Any, counts: tuple[Array, Int[Array, ""]]) -> Int[Array, ""]:
    return hop.agree(further_rounds(counts[1], hop.rows, hop.step))


def _choices(
    hop: Hop,
    experts_tk: ChoicesTK,
    weights_tk: WeightsTK,
    first_tk: ChoicesTK,
    queues: Queues,
    first: Int[Array, ""] | int,
    rows: int,
) -> tuple[Float[Array, "r _"], Float[Array, "r _"]]:
    """Return what travels beside each token: weights, and numbers of experts in its group.

    Numbers as floats, which are exact. With one expert in a group a token's only choice there is
    known, and its weight is all.
    """
    at = padded_window(queues, first, rows)
    token_r = token_of(at)
    group_r = iota(token_r.size, token_r) // rows
    nobody = hop.groups * hop.experts
    experts_rk = taken_or(experts_tk, token_r, nobody) - (group_r * hop.experts)[:, None]
    here_rk = (
        (experts_rk >= 0) & (experts_rk < hop.experts) & (token_r < experts_tk.shape[0])[:, None]
    )
    row_tk = jnp.take_along_axis(at.row_tk, first_tk, axis=1)
    weights_rk = _weights_to_rows(weights_tk, token_r, here_rk, row_tk)
    if hop.experts == 1:
        return weights_rk.sum(axis=1, keepdims=True), jnp.zeros((token_r.size, 0), jnp.float32)
    return weights_rk, where(here_rk, experts_rk, hop.experts).astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _travel(
    hop: Hop, rows: int, rows_rd: Array, weights_rk: Array, numbers_rk: Array
) -> tuple[Array, Array, Array]:
    """Move rows with their choices beside them, in one message; and so their gradients back.

    Args:
        hop: the step.
        rows: places for tokens in each group's block of rows.
        rows_rd: [groups * (rows + spare), d].
        weights_rk: [groups * rows, k], float32.
        numbers_rk: likewise; they have no gradient.
    """
    beside_rn = jnp.concatenate([weights_rk, numbers_rk], axis=1)
    moved_rd, moved_rn = _move_with(hop, rows, rows_rd, beside_rn)
    top_k = weights_rk.shape[1]
    return moved_rd, moved_rn[:, :top_k], moved_rn[:, top_k:]


def _travel_fwd(hop: Hop, rows: int, rows_rd: Array, weights_rk: Array, numbers_rk: Array):
    return _travel(hop, rows, rows_rd, weights_rk, numbers_rk), numbers_rk[:0]


def _travel_bwd(hop: Hop, rows: int, like_rk: Array, grads: tuple[Array, Array, Array]):
    grad_rd, grad_rk, _ = grads
    moved_rd, moved_rk = _move_with(hop, rows, grad_rd, grad_rk)
    return moved_rd, moved_rk, jnp.zeros((moved_rk.shape[0], like_rk.shape[1]), jnp.float32)


_travel.defvjp(_travel_fwd, _travel_bwd)


def _move_with(
    hop: Hop, rows: int, rows_rd: Array, beside_rn: Float[Array, "r n"]
) -> tuple[Array, Array]:
    numbers, width = beside_rn.shape[1], rows_rd.shape[1]
    blocks_gcd = rows_rd.reshape(hop.groups, -1, width)
    blocks_gcd = write_beside(blocks_gcd, beside_rn.reshape(hop.groups, rows, numbers))
    moved_rd = hop.move(blocks_gcd.reshape(-1, width))
    moved_gcd = moved_rd.reshape(hop.groups, -1, width)
    return moved_rd, read_beside(moved_gcd, rows, numbers).reshape(-1, numbers)


def _of_all_rows(
    hop: Hop, rows: int, received_rd: Array, weights_rk: Array, numbers_rk: Array
) -> Routing:
    """Return the choices of all rows that came; those of spare rows are nobody's, with weight 0."""
    spare = received_rd.shape[0] // hop.groups - rows
    if hop.experts == 1:
        experts_rk = jnp.zeros(weights_rk.shape, jnp.int32)
    else:
        experts_rk = jax.lax.stop_gradient(numbers_rk).astype(jnp.int32)

    def padded(x_rk: Array, nobody: int) -> Array:
        blocks = x_rk.reshape(hop.groups, rows, -1)
        blocks = jnp.pad(blocks, ((0, 0), (0, spare), (0, 0)), constant_values=nobody)
        return blocks.reshape(-1, x_rk.shape[1])

    return Routing(padded(experts_rk, hop.experts), padded(weights_rk, 0))


def _first_of_group(groups_tk: ChoicesTK) -> ChoicesTK:
    """Return for each choice the token's first one in the same group."""
    same_tkj = groups_tk[:, :, None] == groups_tk[:, None, :]
    return jnp.argmax(same_tkj, axis=2).astype(jnp.int32)


@jax.custom_vjp
def _weights_to_rows(
    weights_tk: WeightsTK, token_r: Int[Array, " r"], here_rk: Bool[Array, "r k"], row_tk: ChoicesTK
) -> Float[Array, "r k"]:
    """Return the weights of each row's token, 0 for choices that are not here."""
    return where(here_rk, taken_or(weights_tk, token_r, 0), 0)


def _weights_to_rows_bwd(row_tk: ChoicesTK, grad_rk: Array):
    top_k = row_tk.shape[1]
    at_tk = row_tk * top_k + iota(top_k, row_tk)
    return taken_or(grad_rk.reshape(-1), at_tk, 0), None, None, None


_weights_to_rows.defvjp(
    lambda w, token_r, here_rk, row_tk: (_weights_to_rows(w, token_r, here_rk, row_tk), row_tk),
    _weights_to_rows_bwd,
)


def numbers_beside(top_k: int, experts: int) -> int:
    """Return how many numbers travel with a token to a group of `experts`, which it may choose."""
    return 1 if experts == 1 else 2 * top_k


def distinct_groups(top_k: int, experts: int, groups: int) -> float:
    """Return the expected number of groups that a token's choices are in, routing uniform.

        G (1 - C(E - E / G, k) / C(E, k))

    Args:
        top_k: distinct experts that a token chooses.
        experts: to choose from, E.
        groups: G, of equally many experts.
    """
    outside = math.comb(experts - experts // groups, top_k)
    return groups * (1 - outside / math.comb(experts, top_k))
