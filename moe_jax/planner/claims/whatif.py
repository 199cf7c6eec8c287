"""What would have to change for a figure to come out: compiled schedules played with other times.

Results are *modelled*: XLA would order a program differently for another network. Replaying itself
is `xla/replay.py`; layouts without a schedule are modelled in `modelled/estimate.py`.
"""

from collections.abc import Callable

from moe_jax.errors import UserError
from moe_jax.planner.report.results import Plan
from moe_jax.planner.xla.overlap import layer_timelines, own_times
from moe_jax.planner.xla.replay import play


def step_with_faster_collectives(plan: Plan, factor: float) -> float:
    """Return the seconds of a forward step whose collectives take less time.

    Args:
        plan: of a forward step.
        factor: how many times as fast they are.

    Raises:
        UserError: for a plan without a timeline or whose layers exchange nothing.
    """
    layers = layer_timelines(plan.timelines).forward
    if plan.step is None or not layers:
        raise UserError(f"{plan.config.name}: the plan has no timeline of a layer that exchanges")
    own = own_times(plan.timelines)
    faster = {signature: us / factor for signature, us in own.items()}
    before, after = (
        sum(play(t, lambda i: i.duration_us, times).total_us for t in layers)
        for times in (own, faster)
    )
    whole = plan.step.forward.whole.total_s
    return plan.step.total.total_s - whole * (1 - after / before)


def smallest(reaches: Callable[[float], bool], low: float, high: float) -> float | None:
    """Return the smallest value from which on `reaches` is true, to 1 %.

    Args:
        reaches: false below some value and true from there on.
        low: where to begin looking.
        high: where to stop.

    Returns:
        The value; `low` where already that reaches, None where not even `high` does.
    """
    if reaches(low):
        return low
    if not reaches(high):
        return None
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
