"""XLA's simulated timeline, read from the schedule dump of its latency-hiding scheduler.

The dump (`*.schedule.txt`) is proto text: the module, then for each computation that the scheduler
arranged a list of (instruction id, start, end). What the timestamps mean, seen on real dumps:

* instructions stand in execution order; those that compute follow each other on one lane;
* the start and the done of an asynchronous collective take a microsecond each, and in between the
  collective runs beside the lane. A wait is a *gap* on the lane somewhere between the two (the
  scheduler works backwards, so often right after the start), never a long done;
* bitcasts, tuples and the like take no time but leave gaps of about a microsecond;
* a `while`, `call` or `conditional` has a token cost here and a timeline of its own.

Overlap is judged in `overlap.py`; the compiled program's text is read in `hlo.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.errors import UserError

#: HLO opcodes that move data between devices, without their -start and -done.
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclass(frozen=True)
class Instruction:
    """One scheduled instruction. Times in µs from its computation's start."""

    name: str
    opcode: str
    start_us: float
    end_us: float
    #: For a collective: its kind (one of COLLECTIVES), else "".
    collective: str
    #: For a collective: "start", "done", or "sync" when it blocks; else "".
    role: str
    #: For a collective: what makes two of them cost the same (kind, result shape, groups).
    signature: str
    #: For a done: the name of its start.
    pair: str
    #: Custom calls: the target.
    target: str
    #: Where in the JAX program it comes from.
    op_name: str
    #: Of what ends a collective (done, sync): what it delivers to one device, as HLO prints it.
    delivers: str = ""

    @property
    def duration_us(self) -> float:
        """What it takes on the compute lane."""
        return self.end_us - self.start_us


@dataclass(frozen=True)
class Timeline:
    """One computation's schedule.

    `context` holds the opcodes of its callers, outer to inner: () for the entry, ("while",) for the
    body of a scan over layers.
    """

    computation: str
    context: tuple[str, ...]
    instructions: tuple[Instruction, ...]

    @property
    def total_us(self) -> float:
        """When its last instruction ends."""
        return max((i.end_us for i in self.instructions), default=0.0)

    @property
    def is_backward(self) -> bool:
        """Whether it holds work of a transposed (differentiated) program."""
        return any("transpose(" in i.op_name for i in self.instructions)


def parse_timelines(text: str) -> tuple[Timeline, ...]:
    """Read a schedule dump.

    Args:
        text: the content of a `*.schedule.txt`; "" where XLA had nothing to schedule.

    Returns:
        One timeline per scheduled computation, in the dump's order.

    Raises:
        UserError: when the text has another form.
    """
    if not text:
        return ()
    module_text, *schedules = text.split("\ncomputation_schedules {\n")
    if not module_text.startswith("hlo_module {"):
        raise UserError(
            f"not a schedule dump of XLA: it starts with {text[:40]!r}, not with 'hlo_module {{'"
        )
    module = _Module(module_text)
    return tuple(_timeline(schedule, module) for schedule in schedules)


_SCHEDULE_ID = re.compile(r"computation_id: (\d+)")
_RATE = re.compile(r"\n  cycles_per_microsecond: ([\d.e+-]+)")
# Proto text leaves out zeros.
_SLOT = re.compile(
    r"\n  instructions \{\n    id: (\d+)\n"
    r"(?:    start_timestamp_cycles: ([\d.e+-]+)\n)?"
    r"(?:    end_timestamp_cycles: ([\d.e+-]+)\n)?"
)


def _timeline(schedule: str, module: "_Module") -> Timeline:
    found, rate = _SCHEDULE_ID.search(schedule), _RATE.search("\n" + schedule)
    if found is None or rate is None:
        raise UserError("a schedule without computation_id or cycles_per_microsecond")
    scale = float(rate[1])
    computation = found[1]
    raw = module.instructions(computation)
    slots = (
        (raw[i], float(start or 0) / scale, float(end or 0) / scale)
        for i, start, end in _SLOT.findall("\n" + schedule)
    )
    instructions = tuple(module.instruction(r, start, end, raw) for r, start, end in slots)
    return Timeline(module.names[computation], module.context(computation), instructions)


def _field(name: str, text: str) -> str:
    """Return a scalar field of an instruction (fields of one stand 6 spaces deep)."""
    found = re.search(rf'^      {name}: "?([^"\n]*)', text, re.M)
    return found[1] if found else ""


_COMPUTATION_ID = re.compile(r"\n    id: (\d+)\n")
_ROOT_ID = re.compile(r"\n    root_id: (\d+)\n")
_INSTRUCTION_ID = re.compile(r"\n      id: (\d+)\n")
_CALLED = re.compile(r"\n      called_computation_ids: (\d+)")
# Of a shape: element types and dimensions, in order, are enough to tell two apart.
_SHAPE = re.compile(r"(?:element_type|dimensions): (\w+)")
_GROUPS = re.compile(
    r"\n      ((?:collective_device_list|iota_\w+|source_target_pairs) \{.*?)\n      \}", re.S
)


class _Module:
    """The dump's module, indexed as text: most instructions are never looked at."""

    def __init__(self, text: str):
        self.names: dict[str, str] = {}
        self._chunks: dict[str, list[str]] = {}
        self._roots: dict[str, str] = {}
        self._callers: dict[str, tuple[str, str]] = {}
        for block in text.split("\n  computations {\n")[1:]:
            self._index(block.partition("\n  }\n")[0] + "\n")

    def _index(self, block: str) -> None:
        head, *chunks = block.split("\n    instructions {\n")
        # The computation's own fields follow its last instruction, two levels out.
        ids, root = _COMPUTATION_ID.findall(block), _ROOT_ID.findall(block)
        name = re.search(r'name: "([^"]+)"', head)
        if not ids or not root or name is None:
            raise UserError("a computation without name, id or root_id in the schedule dump")
        computation = ids[-1]
        self.names[computation] = name[1]
        self._chunks[computation] = [c.partition("\n    }\n")[0] + "\n" for c in chunks]
        self._roots[computation] = root[-1]
        for chunk in self._chunks[computation]:
            for called in _CALLED.findall(chunk):
                self._callers[called] = (computation, _field("opcode", chunk))

    def instructions(self, computation: str) -> dict[str, str]:
        """Return id -> text of the computation's instructions."""
        found = ((_INSTRUCTION_ID.search(chunk), chunk) for chunk in self._chunks[computation])
        return {match[1]: chunk for match, chunk in found if match}

    def context(self, computation: str) -> tuple[str, ...]:
        opcodes: list[str] = []
        while computation in self._callers:
            computation, opcode = self._callers[computation]
            opcodes.append(opcode)
        return tuple(reversed(opcodes))

    def instruction(self, text: str, start: float, end: float, raw: dict[str, str]) -> Instruction:
        opcode = _field("opcode", text)
        begun, role = text, ""
        if opcode.endswith("-done"):
            begun, role = raw[_field("operand_ids", text)], "done"
        elif opcode.endswith("-start"):
            role = "start"
        work = self._work(begun)
        kind = _field("opcode", work).removesuffix("-start")
        if kind not in COLLECTIVES:
            kind = role = ""
        return Instruction(
            name=_field("name", text),
            opcode=opcode,
            start_us=start,
            end_us=end,
            collective=kind,
            role=role or ("sync" if kind else ""),
            signature=_signature(kind, work) if kind else "",
            pair=_field("name", begun) if role == "done" else "",
            target=_field("custom_call_target", text),
            op_name=_op_name(text),
            delivers=_printed_shape(text) if kind and role != "start" else "",
        )

    def _work(self, text: str) -> str:
        """Return what an async-start runs (its computation's root); other instructions as is."""
        if _field("opcode", text) != "async-start":
            return text
        called = _CALLED.search("\n" + text)
        if called is None:
            raise UserError(f"{_field('name', text)} is an async-start that calls nothing")
        return self.instructions(called[1])[self._roots[called[1]]]


def _op_name(text: str) -> str:
    found = re.search(r'\n        op_name: "([^"\n]*)', text)
    return found[1] if found else ""


def _shape(text: str) -> str:
    return text.partition("\n      shape {\n")[2].partition("\n      }\n")[0]


def _printed_shape(text: str) -> str:
    """Print a shape as HLO does: `bf16[16,4096]`, tuples flat."""
    arrays: list[tuple[str, list[str]]] = []
    for element, dimension in re.findall(r"element_type: (\w+)|\bdimensions: (\d+)", _shape(text)):
        if element and element != "TUPLE":
            arrays.append((element.lower(), []))
        elif dimension:
            arrays[-1][1].append(dimension)
    printed = [f"{element}[{','.join(dims)}]" for element, dims in arrays]
    return printed[0] if len(printed) == 1 else f"({', '.join(printed)})"


def _signature(kind: str, work: str) -> str:
    ids = re.findall(r"\d+", " ".join(_GROUPS.findall(work)))
    return " ".join([kind, *_SHAPE.findall(_shape(work)), *ids])


def starts(timeline: Timeline, kind: str) -> Iterator[Instruction]:
    """Yield the starts (and blocking ones) of one kind of collective, in order."""
    return (i for i in timeline.instructions if i.collective == kind and i.role != "done")
