"""Moving tokens into rows per expert and back: a sort of the choices and one gather each way.

`to_rows` and the unweighted `from_rows` are each other's transpose, so that backward is gathers
too: no scatter-add of [d_model] vectors, hence deterministic on every backend. The gradient of the
weighted way back involves the wire and lives in `combine.py`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.shapes import ChoicesTK, TokensTD, WeightsTK


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Queues:
    """The choices of all tokens, queued per expert.

    A choice is numbered k-major (choice j of token t is j * tokens + t), so first choices are
    served before second ones, then by token: the order of GShard (Lepikhin et al., 2020).
    Choices whose expert is out of range stand in no queue.
    """

    #: Choice numbers sorted by expert, then by number.
    order_r: Int[Array, " r"]
    start_e: Int[Array, " e"]
    length_e: Int[Array, " e"]
    experts_tk: ChoicesTK
    #: Position of each choice in its expert's queue.
    rank_tk: ChoicesTK


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """One round: `capacity` consecutive places of every queue. Out of range means nobody."""

    #: Which choice fills each row [e * capacity]; tokens * k where none does.
    choice_r: Int[Array, " r"]
    #: Which row each choice fills; e * capacity where it is in another round.
    row_tk: ChoicesTK


def make_queues(experts_tk: ChoicesTK, num_experts: int) -> Queues:
    """Sorts the choices by expert."""
    tokens, top_k = experts_tk.shape
    flat_r = experts_tk.T.reshape(-1)
    order_r = jnp.argsort(flat_r, stable=True).astype(jnp.int32)
    experts_e = jnp.arange(num_experts + 1, dtype=flat_r.dtype)
    bounds = jnp.searchsorted(_taken(flat_r, order_r), experts_e).astype(jnp.int32)
    places_r = jnp.arange(tokens * top_k, dtype=jnp.int32)
    inverse_r = jnp.zeros_like(order_r).at[order_r]
    inverse_r = inverse_r.set(
        places_r, unique_indices=True, mode="promise_in_bounds", wrap_negative_indices=False
    )
    start_r = _taken(bounds, jnp.minimum(flat_r, num_experts))
    rank_tk = (inverse_r - start_r).reshape(top_k, tokens).T
    return Queues(order_r, bounds[:-1], jnp.diff(bounds), experts_tk, rank_tk)


def window(queues: Queues, index: Int[Array, ""] | int, capacity: int) -> Window:
    """Return places [index * capacity, (index + 1) * capacity) of every queue."""
    num_experts, choices = queues.start_e.size, queues.order_r.size
    place_c = index * capacity + jnp.arange(capacity, dtype=jnp.int32)
    filled_ec = place_c[None, :] < queues.length_e[:, None]
    at_ec = jnp.where(filled_ec, queues.start_e[:, None] + place_c[None, :], choices)
    choice_r = _taken_or(queues.order_r, at_ec.reshape(-1), choices)
    within_tk = queues.rank_tk - index * capacity
    here_tk = (within_tk >= 0) & (within_tk < capacity) & (queues.experts_tk < num_experts)
    row_tk = queues.experts_tk.astype(jnp.int32) * capacity + within_tk
    return Window(choice_r, jnp.where(here_tk, row_tk, num_experts * capacity))


def to_rows(x_td: TokensTD, at: Window) -> Float[Array, "r d"]:
    """Return row r = the token of the choice that fills it, or zeros."""
    return _to_rows(x_td, at)


def from_rows(rows_rd: Float[Array, "r d"], weights_tk: WeightsTK | None, at: Window) -> TokensTD:
    """Return for each token the weighted sum (in float32) of the rows its choices fill."""
    total = jnp.zeros((at.row_tk.shape[0], rows_rd.shape[-1]), jnp.float32)
    for k in range(at.row_tk.shape[1]):
        rows_td = _taken_or(rows_rd, at.row_tk[:, k], 0).astype(jnp.float32)
        total += rows_td if weights_tk is None else rows_td * weights_tk[:, k, None]
    return total.astype(rows_rd.dtype)


def weighted_to_rows(x_td: TokensTD, weights_tk: WeightsTK, at: Window) -> Float[Array, "r d"]:
    """Return row r = token times combine weight of the choice that fills it, or zeros."""
    weights_r = _taken_or(weights_tk.T.reshape(-1), at.choice_r, 0)
    rows_rd = to_rows(x_td, at).astype(jnp.float32) * weights_r[:, None]
    return rows_rd.astype(x_td.dtype)


def scalars_from_rows(scalars_r: Float[Array, " r"], at: Window) -> WeightsTK:
    """Return each choice's scalar; 0 for choices of other rounds."""
    return _taken_or(scalars_r, at.row_tk, 0)


@jax.custom_vjp
def _to_rows(x_td, at: Window):
    tokens = x_td.shape[0]
    choices = at.row_tk.size
    token_r = jnp.where(at.choice_r < choices, at.choice_r % tokens, tokens)
    return _taken_or(x_td, token_r, 0)


_to_rows.defvjp(
    lambda x, at: (_to_rows(x, at), at),
    lambda at, grad: (from_rows(grad, None, at), None),
)


# Indices here are never negative. Letting JAX turn negative ones round costs three operations each
# time, with constants that all streams share; through these XLA joins the streams' routing into one
# fusion, and the first dispatch waits for the last stream.


def _taken(x: Array, index: Array) -> Array:
    """x[index], all in range."""
    return x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _taken_or(x: Array, index: Array, otherwise: int) -> Array:
    """x[index], or `otherwise` past the end."""
    return x.at[index].get(mode="fill", fill_value=otherwise, wrap_negative_indices=False)
