"""The text of a compiled program, parsed as far as the planner needs it.

Instructions with their operands, attributes and callers; what a collective moves. Whether
communication hides is judged in `overlap.py`; simulated times are in `timeline.py`.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

from moe_jax.planner.timeline import COLLECTIVES


@dataclass(frozen=True)
class HloInstruction:
    """One line of HLO. `shape` and `attributes` are as printed."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str


@dataclass(frozen=True)
class HloComputation:
    """Instructions in printed order: execution order where the module is scheduled."""

    name: str
    #: Opcodes of its callers, outer to inner; () for the entry.
    context: tuple[str, ...]
    instructions: tuple[HloInstruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, HloInstruction]:
        return {i.name: i for i in self.instructions}


@dataclass(frozen=True)
class Collective:
    """One collective of a program: what it moves, between whom, and where it stands."""

    name: str
    kind: str
    computation: str
    #: Opcodes of the calls that lead there: "while" = in a loop, "conditional" = in a branch.
    context: tuple[str, ...]
    #: Bytes it reads and writes on one device.
    operand_bytes: int
    result_bytes: int
    #: Devices that talk to each other; for a permute, its (source, target) pairs. () = all.
    groups: tuple[tuple[int, ...], ...]
    #: False when it blocks: no start and done, or a start that runs to its end.
    is_async: bool


_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLS = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|true_computation"
    r"|false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)


def parse_hlo(text: str) -> dict[str, HloComputation]:
    """Read a scheduled HLO module.

    Args:
        text: `jax.stages.Compiled.as_text()`.

    Returns:
        Name -> computation, in printed order.

    Raises:
        ValueError: when the module is not scheduled, for then its order means nothing.
    """
    if "is_scheduled=true" not in text.partition("\n")[0]:
        raise ValueError("this HLO is not scheduled: pass the text of a compiled program")
    bodies: dict[str, list[HloInstruction]] = {}
    body: list[HloInstruction] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            body = bodies.setdefault(header[1], [])
        elif found := _LINE.match(line):
            body.append(_instruction(found[1], found[2]))
    callers = _callers(bodies)
    return {
        name: HloComputation(name, _context(name, callers), tuple(body))
        for name, body in bodies.items()
    }


def _instruction(name: str, rest: str) -> HloInstruction:
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, call = rest[:end], rest[end:].lstrip()
    opcode, _, tail = call.partition("(")
    close = _closing("(" + tail) - 1
    operands = tuple(re.findall(r"%([\w.\-]+)", tail[:close]))
    return HloInstruction(name, opcode, shape, operands, tail[close:])


def _closing(text: str) -> int:
    """Position behind the parenthesis that closes the one `text` starts with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]}")


def called(instruction: HloInstruction) -> tuple[str, ...]:
    """Names of the computations that `instruction` calls."""
    found = _CALLS.findall(instruction.attributes)
    return tuple(n for group in found for n in re.findall(r"[\w.\-]+", group))


def _callers(bodies: dict[str, list[HloInstruction]]) -> dict[str, tuple[str, str]]:
    return {
        target: (name, instruction.opcode)
        for name, body in bodies.items()
        for instruction in body
        for target in called(instruction)
    }


def _context(name: str, callers: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    opcodes: list[str] = []
    while name in callers:
        name, opcode = callers[name]
        opcodes.append(opcode)
    return tuple(reversed(opcodes))


def collectives(hlo_text: str) -> tuple[Collective, ...]:
    """Every collective of a scheduled module, an async pair counted once.

    Raises:
        ValueError: for text in a form this parser does not know.
    """
    return tuple(
        _collective(instruction, computation)
        for computation in parse_hlo(hlo_text).values()
        for instruction in computation.instructions
        if instruction.opcode.removesuffix("-start") in COLLECTIVES
    )


def _collective(start: HloInstruction, computation: HloComputation) -> Collective:
    operands = [computation.by_name[name] for name in start.operands]
    result = done_of(start, computation) if start.opcode.endswith("-start") else start
    return Collective(
        name=start.name,
        kind=start.opcode.removesuffix("-start"),
        computation=computation.name,
        context=computation.context,
        operand_bytes=sum(shape_bytes(o.shape) for o in operands),
        result_bytes=shape_bytes(result.shape),
        groups=_groups(start),
        is_async=start.opcode.endswith("-start") and not is_blocking(start),
    )


def done_of(start: HloInstruction, computation: HloComputation) -> HloInstruction:
    """The done of an async start."""
    opcode = start.opcode.removesuffix("-start") + "-done"
    for instruction in computation.instructions:
        if instruction.opcode == opcode and start.name in instruction.operands:
            return instruction
    raise ValueError(f"{start.name} in {computation.name} has no {opcode}")


def is_blocking(start: HloInstruction) -> bool:
    """Whether XLA runs this async start to its end before it goes on."""
    return re.search(r'"is_sync":\s*true', start.attributes) is not None


_DTYPE_BITS = re.compile(r"[a-z]+?(\d+)(?:e\d+m\d+\w*)?$")


def shape_bytes(shape: str) -> int:
    """Bytes of a printed shape; of a tuple, the sum of its parts."""
    arrays = re.findall(r"([a-z]\w*)\[([\d,<=]*)\]", re.sub(r"\{[^}]*\}", "", shape))
    return sum(_array_bytes(dtype, dims) for dtype, dims in arrays)


def _array_bytes(dtype: str, dims: str) -> int:
    count = int(np.prod([int(d.removeprefix("<=")) for d in dims.split(",") if d], dtype=np.int64))
    if dtype == "pred":
        return count
    if dtype == "token":
        return 0
    bits = _DTYPE_BITS.match(dtype)
    if bits is None:
        raise ValueError(f"HLO element type {dtype!r} is not known to shape_bytes")
    return -(-count * int(bits[1]) // 8)


#: mesh['axis_0'=4,'axis_1'=2] {'axis_1'}: devices along the named axes talk to each other.
_MESH_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


def _groups(collective: HloInstruction) -> tuple[tuple[int, ...], ...]:
    if along := _MESH_AXES.search(collective.attributes):
        return _mesh_groups(along[1], along[2])
    found = re.search(
        r"\b(?:replica_groups|source_target_pairs)=(\{(?:\{[\d,]*\},?)*\}|\[[^ ]*)",
        collective.attributes,
    )
    if found is None:
        raise ValueError(f"{collective.name}: no device groups in {collective.attributes[:200]!r}")
    if iota := _IOTA.match(found[1]):
        shape, source = (tuple(map(int, iota[i].split(","))) for i in (1, 2))
        ids = np.arange(np.prod(source)).reshape(source)
        if iota[3]:
            ids = ids.transpose(tuple(map(int, iota[3].split(","))))
        return tuple(tuple(map(int, row)) for row in ids.reshape(shape))
    rows = re.findall(r"\{([\d,]+)\}", found[1])
    return tuple(tuple(map(int, row.split(","))) for row in rows)


def _mesh_groups(mesh: str, axes: str) -> tuple[tuple[int, ...], ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    along = re.findall(r"'([^']+)'", axes)
    if re.search(r":\(\d+\)", axes) or "device_ids" in mesh:
        raise ValueError(f"replica groups of a part of an axis are not known here: {axes}")
    names = list(sizes)
    others = [names.index(name) for name in names if name not in along]
    ids = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
    rows = ids.transpose(others + [names.index(name) for name in along])
    width = int(np.prod([sizes[name] for name in along]))
    return tuple(tuple(map(int, row)) for row in rows.reshape(-1, width))
