"""A timeline played again with other durations: what the same schedule takes under better costs.

The order stays the one that XLA's scheduler chose under its own costs; only times change.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from moe_jax.planner.overlap import own_times
from moe_jax.planner.timeline import Instruction, Timeline

#: Custom-call targets of cuDNN's attention; those of the gradient end in "Backward".
_ATTENTION = "__cudnn$fmha"


def play(
    timeline: Timeline, duration_us: Callable[[Instruction], float], own: Mapping[str, float]
) -> Timeline:
    """Run a schedule in order: compute on one lane, collectives beside it.

    An instruction begins when the one before it has ended; a done also waits until its collective
    has had its own time. Idle moments that are no wait (about a microsecond at bitcasts) go away.

    Args:
        duration_us: the duration of an instruction on the compute lane, in µs.
        own: `own_times` of the module the timeline is from.
    """
    now, begun, played = 0.0, {}, []
    for i in timeline.instructions:
        length = duration_us(i)
        if i.role == "start":
            begun[i.name] = now
        if i.role == "done":
            now = max(now, begun[i.pair] + own[i.signature] - length)
        played.append(replace(i, start_us=now, end_us=now + length))
        now += length
    return replace(timeline, instructions=tuple(played))


def with_attention_cost(
    timeline: Timeline,
    forward_s: float,
    backward_s: float,
    own: Mapping[str, float] | None = None,
) -> Timeline:
    """Give cuDNN attention calls, which XLA costs at 10 µs each, a real duration.

    What comes later moves; a wait inside whose window attention now runs longer shrinks.

    Args:
        forward_s, backward_s: seconds of one forward and one backward call of this program.
        own: `own_times` of the module; by default of this timeline alone.

    Raises:
        ValueError: when the timeline has no such call, so that nothing would be corrected.
    """
    if not any(i.target.startswith(_ATTENTION) for i in timeline.instructions):
        raise ValueError(f"{timeline.computation} has no cuDNN attention call to correct")

    def duration_us(i: Instruction) -> float:
        if not i.target.startswith(_ATTENTION):
            return i.duration_us
        return 1e6 * (backward_s if i.target.endswith("Backward") else forward_s)

    return play(timeline, duration_us, own_times([timeline]) if own is None else own)
