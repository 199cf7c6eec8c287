"""How long each computation of a compiled program takes, everything in it at its real cost.

XLA's scheduler arranges (and times) only computations with asynchronous collectives; the others,
such as the loop over chunks of the loss, are played in order at given rates. Loops take their
trips times their body, branches their cheapest side: balanced routing needs no further round.
Which computations make a layer or a step is `phases.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from moe_jax.errors import UserError
from moe_jax.hardware.network import collective_time
from moe_jax.hardware.rates import Rates
from moe_jax.hardware.topology import Topology
from moe_jax.planner.compiled.link_bytes import widest_group
from moe_jax.planner.report.figures import NO_TIME, Times
from moe_jax.planner.xla.hlo import (
    Collective,
    HloComputation,
    HloInstruction,
    called,
    collectives_of,
    op_name,
)
from moe_jax.planner.xla.loops import body_of, entry_of, trip_count, trips_in_balance
from moe_jax.planner.xla.overlap import collective_windows, exposed_spans, own_times
from moe_jax.planner.xla.replay import play
from moe_jax.planner.xla.timeline import COLLECTIVES, Instruction, Timeline
from moe_jax.planner.xla.work import (
    InstructionWork,
    custom_call_target,
    is_in_place_scatter,
    is_mixed_matmul,
    seconds,
    work_of,
)

_US = 1e-6
_CONTROL = ("while", "call", "conditional")
#: Work inside custom calls: XLA counts 10 µs, or what the kernel told it.
_OWN_RATES = ("attention_forward", "attention_backward", "matmul_grouped")
#: In names of what XLA rematerialises after scheduling.
_AGAIN = ".remat"
_SCHEDULED_AS = re.compile(r'scheduling_name="([^"]*)"')
#: Longer idle moments are waits; bitcasts and the like leave gaps of about 1 µs.
_WAIT_US = 10.0


class Clock:
    """Times of a compiled program's computations.

    Args:
        module: `hlo.parse_hlo` of the program's text.
        timelines: XLA's, of the same program.
        rates: what times attention, and all work that XLA's estimator did not.
        calibrated: whether `rates` also replaces XLA's estimates of other work.
        topology: what times collectives that XLA's estimator did not.
    """

    def __init__(
        self,
        module: Mapping[str, HloComputation],
        timelines: Sequence[Timeline],
        rates: Rates,
        topology: Topology,
        *,
        calibrated: bool = False,
    ):
        self.module = module
        self.entry = entry_of(module)
        self.rates = rates
        self._topology, self._calibrated = topology, calibrated
        timelines = [_named_as_compiled(t, module[t.computation]) for t in timelines]
        self._scheduled = {t.computation: t for t in timelines}
        self.own_us = own_times(timelines)
        self._told = _waited_for(timelines)
        self._bound_untold(timelines)
        self.timeline = cache(self._timeline)
        self.times = cache(self._times)

    def calls(self, computation: str, name: str) -> tuple[tuple[str, int], ...]:
        """Return what a control-flow instruction runs, and how often.

        Args:
            computation: where it stands.
            name: of the instruction.

        Returns:
            ((computation, times), ...).
        """
        instruction = self.module[computation].by_name[name]
        if instruction.opcode == "while":
            return ((body_of(instruction), trips_in_balance(instruction)),)
        inner = called(instruction)
        if instruction.opcode == "conditional":
            return ((min(inner, key=lambda c: self.timeline(c).total_us), 1),)
        return tuple((c, 1) for c in inner)

    @property
    def untold_loops(self) -> tuple[str, ...]:
        """Loops outside branches, of unknown trips, that count once: no further rounds."""
        return tuple(
            i.name
            for c in self.module.values()
            for i in c.instructions
            if i.opcode == "while" and "conditional" not in c.context
            if trip_count(i) is None and trips_in_balance(i)
        )

    @property
    def computes_again(self) -> bool:
        """Whether XLA, short of memory, computes values twice that its schedule has once."""
        return any(_AGAIN in i.name for c in self.module.values() for i in c.instructions)

    @property
    def runs_grouped(self) -> bool:
        """Whether the program multiplies with our kernels of grouped matmuls."""
        return any(
            work_of(i, c, self.module).kind == "matmul_grouped"
            for c in self.module.values()
            for i in c.instructions
            if i.opcode == "custom-call"
        )

    def own_s(self, computation: str, collective: str) -> float:
        """Return the seconds that a collective takes by itself."""
        i = self._find(computation, collective)
        return self.own_us.get(i.signature, i.duration_us) * _US

    def is_timed(self, computation: str, collective: str) -> bool:
        """Return whether XLA tells how long a collective takes: something waits for it."""
        return self._find(computation, collective).signature in self._told

    def _find(self, computation: str, collective: str) -> Instruction:
        found = (i for i in self.timeline(computation).instructions if i.name == collective)
        if i := next(found, None):
            return i
        raise UserError(f"{collective} is not in the timeline of {computation}")

    def _bound_untold(self, timelines: Sequence[Timeline]) -> None:
        """Bound the time of collectives that nothing waits for by their modelled one.

        Their windows are longer than themselves.
        """
        for timeline in timelines:
            moved = {c.name: c for c in collectives_of(self.module[timeline.computation])}
            for i in timeline.instructions:
                if i.name in moved and i.role != "done" and i.signature not in self._told:
                    modelled_us = self._modelled_s(moved[i.name]) / _US
                    self.own_us[i.signature] = min(self.own_us[i.signature], modelled_us)

    def _modelled_s(self, collective: Collective) -> float:
        group = widest_group(collective, self._topology)
        size = max(collective.operand_bytes, collective.result_bytes)
        return collective_time(collective.kind, size, group, self._topology)

    def _timeline(self, name: str) -> Timeline:
        """Return the timeline of a computation, loops and attention at their real cost."""
        timeline = self._scheduled.get(name) or self._in_order(self.module[name])
        return play(timeline, lambda i: self._duration_us(name, i), self.own_us)

    def _duration_us(self, computation: str, i: Instruction) -> float:
        if i.collective:
            return i.duration_us
        if i.opcode == "get-tuple-element":
            # XLA gives it the attributes, and so a share of the time, of a kernel that it follows.
            return 0.0
        if i.opcode in _CONTROL:
            inner = self.calls(computation, i.name)
            return sum(n * self.timeline(c).total_us for c, n in inner)
        work = self._work(computation, i)
        known = computation in self._scheduled and not self._calibrated
        if known and not self._is_mispriced(computation, i, work):
            return i.duration_us
        return seconds(work, self.rates) / _US

    def _is_mispriced(self, computation: str, i: Instruction, work: InstructionWork) -> bool:
        """Whether XLA's estimate of an instruction is known to be far off, or is none."""
        body, compiled = self.module[computation], self._as_compiled(computation, i.name)
        if compiled is None or work.kind in _OWN_RATES:
            return work.kind in _OWN_RATES
        if work.kind == "matmul":
            return is_mixed_matmul(compiled, body, self.module)
        return is_in_place_scatter(compiled, self.module)

    def _work(self, name: str, i: Instruction) -> InstructionWork:
        # Copies that came and went after XLA's scheduler take no time there either.
        found = self._as_compiled(name, i.name)
        return (
            work_of(found, self.module[name], self.module)
            if found
            else InstructionWork("other", 0, 0)
        )

    def _as_compiled(self, computation: str, scheduled: str) -> HloInstruction | None:
        """Return what one of the schedule became; XLA renames what it computes again."""
        by_name = self.module[computation].by_name
        if found := by_name.get(scheduled):
            return found
        again = (i for name, i in by_name.items() if name.startswith(f"{scheduled}{_AGAIN}"))
        return next(again, None)

    def _in_order(self, computation: HloComputation) -> Timeline:
        """Return a timeline of what XLA's scheduler left alone; collectives block there."""
        blocking = {c.name: c for c in collectives_of(computation)}
        instructions = []
        for i in computation.instructions:
            plain = Instruction(
                i.name, i.opcode, 0.0, 0.0, "", "", "", "", custom_call_target(i), op_name(i)
            )
            if collective := blocking.get(i.name):
                plain = replace(
                    plain,
                    end_us=self._modelled_s(collective) / _US,
                    collective=collective.kind,
                    role="sync",
                    signature=f"{computation.name}/{i.name}",
                )
            if not any(name in blocking for name in i.operands if i.opcode.endswith("-done")):
                instructions.append(plain)
        return Timeline(computation.name, computation.context, tuple(instructions))

    def times_of(self, computation: str, named: re.Pattern[str]) -> Times:
        """Return the times of part of a computation.

        Args:
            computation: its name.
            named: of its instructions, by their name in the traced program; the part is from the
                first to the last of them.
        """
        timeline = self.timeline(computation)
        mine = [i for i in timeline.instructions if named.search(i.op_name)]
        if not mine:
            return NO_TIME
        start, end = min(i.start_us for i in mine), max(i.end_us for i in mine)
        inside = (i for i in timeline.instructions if start <= i.start_us and i.end_us <= end)
        part = replace(timeline, instructions=tuple(inside))
        return replace(self._spent(part), total_s=(end - start) * _US)

    def _times(self, name: str) -> Times:
        """Return the times of one run of a computation, loops included."""
        timeline = self.timeline(name)
        return replace(self._spent(timeline), total_s=timeline.total_us * _US)

    def _spent(self, timeline: Timeline) -> Times:
        """Return what the instructions of a timeline take, without its length."""
        name = timeline.computation
        spent = {"matmul": 0.0, "attention": 0.0, "gather": 0.0, "other": 0.0}
        comm_us, inner = 0.0, NO_TIME
        for i in timeline.instructions:
            if i.collective:
                if i.role != "done":
                    comm_us += self.own_us.get(i.signature, i.duration_us)
            elif i.opcode in _CONTROL:
                for c, n in self.calls(name, i.name):
                    inner += self.times(c) * n
            else:
                spent[self._work(name, i).kind.partition("_")[0]] += i.duration_us
        own = Times(
            total_s=0.0,
            compute_s=sum(spent.values()),
            matmul_s=spent["matmul"],
            attention_s=spent["attention"],
            other_s=spent["gather"] + spent["other"],
            comm_s=comm_us,
            exposed_comm_s=sum(b - a for a, b in exposed_spans(timeline)),
        )
        return own * _US + inner


def _named_as_compiled(timeline: Timeline, computation: HloComputation) -> Timeline:
    """Return a timeline whose collectives have the names of the compiled program.

    Since jaxlib 0.12, XLA joins a start and its done after scheduling where nothing runs between
    them; what they become has a name of its own.
    """
    became = {}
    for collective in collectives_of(computation):
        found = _SCHEDULED_AS.search(computation.by_name[collective.name].attributes)
        if found and found[1] not in computation.by_name:
            became[found[1]] = collective.name
    return replace(
        timeline,
        instructions=tuple(
            replace(i, name=became.get(i.name, i.name), pair=became.get(i.pair, i.pair))
            for i in timeline.instructions
        ),
    )


def _waited_for(timelines: Sequence[Timeline]) -> frozenset[str]:
    """Signatures of collectives that something waits for: their shortest window is their time."""
    found = set()
    for timeline in timelines:
        waits = [(a, b) for a, b in exposed_spans(timeline) if b - a > _WAIT_US]
        found |= {
            w.signature
            for kind in COLLECTIVES
            for w in collective_windows(timeline, kind)
            if any(a < w.end_us and w.start_us < b for a, b in waits)
        }
    return frozenset(found)
