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


def further_rounds(longest: Int[Array, ""], main: int, step: int) -> Int[Array, ""]:
    """Return how many further rounds of `step` places a queue of length `longest` needs."""
    return jnp.maximum(-(-(longest - main) // step), 0)


def run_rounds(
    one_round: Round, operands: Any, fixed: Any, extra: Int[Array, ""], *, main: int, step: int
) -> tuple[Array, Any]:
    """Run the main round and `extra` further ones; return the sums of what they return.

    Args:
        one_round: what a round does; hashable by identity.
        operands: pytree of floating-point arrays; gradients flow to all of them.
        fixed: pytree of integers and masks.
        extra: further rounds, the same on every device that takes part in one.
        main: places of each queue in the main round, whose `first` is a plain 0.
        step: places of each queue in a further round.
    """
    return _run(one_round, main, step, operands, fixed, extra)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(one_round: Round, main: int, step: int, operands: Any, fixed: Any, extra: Array):
    result = one_round(operands, fixed, 0, main)
    return _further(one_round, main, step, operands, fixed, extra, result)


def _further(one_round: Round, main: int, step: int, operands, fixed, extra, result):
    # Decided behind the main round, so that no dispatch waits for the decision: XLA keeps one
    # collective in flight, and all streams' decisions are one.
    extra, result = jax.lax.optimization_barrier((extra, result))

    def body(index: Array, result: Any) -> Any:
        more = one_round(operands, fixed, main + index * step, step)
        return jax.tree.map(jnp.add, result, more)

    with jax.named_scope(FURTHER_ROUNDS):
        return jax.lax.fori_loop(0, extra, body, result)


def _run_fwd(one_round: Round, main: int, step: int, operands, fixed, extra):
    result, pull = jax.vjp(lambda o: one_round(o, fixed, 0, main), operands)
    result = _further(one_round, main, step, operands, fixed, extra, result)
    return result, (pull, operands, fixed, extra)


def _run_bwd(one_round: Round, main: int, step: int, saved, grads):
    pull, operands, fixed, extra = saved
    (total,) = pull(grads)

    def body(index: Array, total: Any) -> Any:
        def again(o: Any) -> Any:
            return one_round(o, fixed, main + index * step, step)

        (more,) = jax.vjp(again, operands)[1](grads)
        return jax.tree.map(jnp.add, total, more)

    extra, total = jax.lax.optimization_barrier((extra, total))
    with jax.named_scope(FURTHER_ROUNDS):
        return jax.lax.fori_loop(0, extra, body, total), None, None


_run.defvjp(_run_fwd, _run_bwd)
