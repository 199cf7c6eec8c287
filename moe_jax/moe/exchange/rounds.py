"""Serving every row with buffers of fixed sizes: a main round, then small ones while any are left.

    y = main(0, rows) + sum_i further(rows + i * step, step)        i < extra, known from counts

`extra` is data: the further rounds are a loop that runs as often as the fullest queue needs, mostly
never. Main and further rounds are one operation with one gradient rule, so that gradients of the
experts' weights are summed in place: a loop that may run needs no second set of them, and keeps
nothing for backward.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from moe_jax.scopes import FURTHER_ROUNDS

#: (operands, fixed, first place, places) -> (y, counts): what the places [first, first + places) of
#: all queues contribute. It closes over no arrays: those with a gradient are operands.
Round = Callable[[Any, Any, Int[Array, ""] | int, int], tuple[Array, Any]]
#: (fixed, counts of the main round) -> how many further rounds there are, the same on every device
#: that takes part in one. It closes over no arrays either.
Decide = Callable[[Any, Any], Int[Array, ""]]


def further_rounds(longest: Int[Array, ""], main: int, step: int) -> Int[Array, ""]:
    """Return how many further rounds of `step` places a queue of length `longest` needs."""
    return jnp.maximum(-(-(longest - main) // step), 0)


def run_rounds(
    one_round: Round,
    operands: Any,
    fixed: Any,
    decide: Decide | None,
    *,
    main: int,
    step: int,
) -> tuple[Array, Any, Int[Array, ""]]:
    """Run the main round and further ones; return the sums of what they return, and their number.

    Args:
        one_round: what a round does; hashable by identity.
        operands: pytree of floating-point arrays; gradients flow to all of them.
        fixed: pytree of integers and masks.
        decide: how many further rounds there are; None: there never are any.
        main: places of each queue in the main round, whose `first` is a plain 0.
        step: places of each queue in a further round.
    """
    found: Any = _run(one_round, decide, main, step, operands, fixed)
    (y, counts), extra = found
    return y, counts, extra


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _run(one_round: Round, decide: Decide | None, main: int, step: int, operands: Any, fixed: Any):
    result = one_round(operands, fixed, 0, main)
    return _further(one_round, decide, main, step, operands, fixed, result)


def _further(
    one_round: Round, decide: Decide | None, main: int, step: int, operands, fixed, result
):
    if decide is None:
        return result, jnp.zeros((), jnp.int32)
    # Decided behind the main round, with all it takes: XLA makes one collective of all streams'
    # decisions, and what is behind that waits for the last stream.
    result = jax.lax.optimization_barrier(result)
    extra = decide(fixed, result[1])

    def body(index: Array, result: Any) -> Any:
        more = one_round(operands, fixed, main + index * step, step)
        return jax.tree.map(jnp.add, result, more)

    with jax.named_scope(FURTHER_ROUNDS):
        return jax.lax.fori_loop(0, extra, body, result), extra


def _run_fwd(one_round: Round, decide: Decide | None, main: int, step: int, operands, fixed):
    result, pull = jax.vjp(lambda o: one_round(o, fixed, 0, main), operands)
    result, extra = _further(one_round, decide, main, step, operands, fixed, result)
    return (result, extra), (pull, operands, fixed, extra)


def _run_bwd(one_round: Round, decide: Decide | None, main: int, step: int, saved, grads):
    pull, operands, fixed, extra = saved
    grads, _ = grads
    (total,) = pull(grads)
    if decide is None:
        return total, None

    def body(index: Array, total: Any) -> Any:
        def again(o: Any) -> Any:
            return one_round(o, fixed, main + index * step, step)

        (more,) = jax.vjp(again, operands)[1](grads)
        return jax.tree.map(jnp.add, total, more)

    extra, total = jax.lax.optimization_barrier((extra, total))
    with jax.named_scope(FURTHER_ROUNDS):
        return jax.lax.fori_loop(0, extra, body, total), None


_run.defvjp(_run_fwd, _run_bwd)
