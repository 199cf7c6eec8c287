"""Moving tokens into rows and back: queues per group, one gather each way.

`to_rows` and `from_rows` are each other's transpose, so backward is gathers too: no scatter-add of
[d_model] vectors, hence deterministic on every backend.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.moe.exchange.constants import iota, where
from moe_jax.shapes import ChoicesTK, TokensTD, WeightsTK


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Queues:
    """The choices of all tokens, queued per group (an expert, or a device that holds some).

    A choice is numbered k-major (choice j of token t is j * tokens + t), so first choices are
    served before second ones, then by token: the order of GShard (Lepikhin et al., 2020).
    Choices whose group is out of range stand in no queue.
    """

    #: Choice numbers sorted by group, then by number.
    order_r: Int[Array, " r"]
    start_g: Int[Array, " g"]
    length_g: Int[Array, " g"]
    groups_tk: ChoicesTK
    #: Position of each choice in its group's queue.
    rank_tk: ChoicesTK


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """The choices that are served together, each in a row of its own. Out of range means nobody."""

    #: Which choice fills each row; tokens * k where none does.
    choice_r: Int[Array, " r"]
    #: Which row each choice fills; r where it is in another window.
    row_tk: ChoicesTK


def make_queues(groups_tk: ChoicesTK, groups: int) -> Queues:
    """Sort the choices by group."""
    tokens, top_k = groups_tk.shape
    flat_r = groups_tk.T.reshape(-1).astype(jnp.int32)
    places_r = iota(tokens * top_k, flat_r)
    _, order_r = jax.lax.sort((flat_r, places_r), num_keys=1, is_stable=True)
    bounds = (flat_r[None, :] < iota(groups + 1, flat_r)[:, None]).sum(axis=1, dtype=jnp.int32)
    inverse_r = places_r.at[order_r]
    inverse_r = inverse_r.set(
        places_r, unique_indices=True, mode="promise_in_bounds", wrap_negative_indices=False
    )
    start_r = taken(bounds, jnp.minimum(flat_r, groups))
    rank_tk = (inverse_r - start_r).reshape(top_k, tokens).T
    return Queues(order_r, bounds[:-1], jnp.diff(bounds), groups_tk, rank_tk)


def padded_window(
    queues: Queues, first: Int[Array, ""] | int, capacity: int, spare: int = 0
) -> Window:
    """Return places [first, first + capacity) of every queue.

    Args:
        queues: of all choices.
        first: place.
        capacity: places of a queue.
        spare: rows behind those of each queue, which stay empty: [groups * (capacity + spare)].
    """
    groups, choices = queues.start_g.size, queues.order_r.size
    stride = capacity + spare
    within_c = iota(stride, queues.length_g)
    place_c = first + within_c
    filled_gc = (place_c[None, :] < queues.length_g[:, None]) & (within_c < capacity)
    at_gc = where(filled_gc, queues.start_g[:, None] + place_c[None, :], choices)
    choice_r = taken_or(queues.order_r, at_gc.reshape(-1), choices)
    within_tk = queues.rank_tk - first
    here_tk = (within_tk >= 0) & (within_tk < capacity) & (queues.groups_tk < groups)
    row_tk = queues.groups_tk.astype(jnp.int32) * stride + within_tk
    return Window(choice_r, where(here_tk, row_tk, groups * stride))


def packed_window(
    queues: Queues, first: Int[Array, ""] | int, rows: int
) -> tuple[Window, Int[Array, " g"]]:
    """Return places [first, first + rows) of all queues one after another, and rows per group."""
    groups, choices = queues.start_g.size, queues.order_r.size
    end = queues.length_g.sum()
    place_r = first + iota(rows, queues.length_g)
    choice_r = taken_or(queues.order_r, where(place_r < end, place_r, choices), choices)
    start_tk = taken(queues.start_g, jnp.minimum(queues.groups_tk, groups - 1))
    within_tk = start_tk + queues.rank_tk - first
    here_tk = (within_tk >= 0) & (within_tk < rows) & (queues.groups_tk < groups)
    starts_g = jnp.clip(queues.start_g - first, 0, rows)
    ends_g = jnp.clip(queues.start_g + queues.length_g - first, 0, rows)
    return Window(choice_r, where(here_tk, within_tk, rows)), ends_g - starts_g


def token_of(at: Window) -> Int[Array, " r"]:
    """Return the token that fills each row; the number of tokens where none does."""
    tokens = at.row_tk.shape[0]
    return where(at.choice_r < at.row_tk.size, at.choice_r % tokens, tokens)


@jax.custom_vjp
def to_rows(x_td: TokensTD, at: Window) -> Float[Array, "r d"]:
    """Return row r = the token of the choice that fills it, or zeros."""
    return taken_or(x_td, token_of(at), 0)


@jax.custom_vjp
def from_rows(rows_rd: Float[Array, "r d"], at: Window) -> TokensTD:
    """Return for each token the sum (in float32) of the rows that its choices fill."""
    found = (
        taken_or(rows_rd, at.row_tk[:, k], 0).astype(jnp.float32) for k in range(at.row_tk.shape[1])
    )
    return reduce(add, found).astype(rows_rd.dtype)


to_rows.defvjp(
    lambda x, at: (to_rows(x, at), at),
    lambda at, grad_rd: (from_rows(grad_rd, at), None),
)
from_rows.defvjp(
    lambda rows, at: (from_rows(rows, at), at),
    lambda at, grad_td: (to_rows(grad_td, at), None),
)


@jax.custom_vjp
def weights_to_rows(weights_tk: WeightsTK, at: Window) -> Float[Array, " r"]:
    """Return row r = the weight of the choice that fills it, or 0."""
    return taken_or(weights_tk.T.reshape(-1), at.choice_r, 0)


weights_to_rows.defvjp(
    lambda weights, at: (weights_to_rows(weights, at), at),
    lambda at, grad_r: (taken_or(grad_r, at.row_tk, 0), None),
)


# Indices here are never negative. Letting JAX turn negative ones round costs three operations each
# time, with constants that all streams share (`constants.py`).


def taken(x: Array, index: Array) -> Array:
    """Return x[index], all in range."""
    return x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def taken_or(x: Array, index: Array, otherwise: int) -> Array:
    """Return x[index], or `otherwise` past the end."""
    return x.at[index].get(mode="fill", fill_value=otherwise, wrap_negative_indices=False)
