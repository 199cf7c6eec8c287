"""A timeline played again with other durations: what the same schedule takes under better costs.

The order stays the one that XLA's scheduler chose under its own costs; only times change.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from moe_jax.planner.xla.timeline import Instruction, Timeline


def play(
    timeline: Timeline, duration_us: Callable[[Instruction], float], own: Mapping[str, float]
) -> Timeline:
    """Run a schedule in order: compute on one lane, collectives beside it.

    An instruction begins when the one before it has ended; a done also waits until its collective
    has had its own time. Idle moments that are no wait (about a microsecond at bitcasts) go away.

    Args:
        timeline: as XLA scheduled it.
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
