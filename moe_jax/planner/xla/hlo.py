"""The text of a compiled program, parsed as far as the planner needs it.

Instructions with their operands, attributes and callers; what a collective moves. Whether
communication hides is judged in `overlap.py`; simulated times are in `timeline.py`.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

from moe_jax.errors import UserError
from moe_jax.planner.xla.groups import device_groups
from moe_jax.planner.xla.timeline import COLLECTIVES


@dataclass(frozen=True)
class HloInstruction:
    """One line of HLO.

    `shape` and `attributes` are as printed; a parameter's attributes begin with its number.
    """

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
        """Its instructions by name."""
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
        UserError: when the module is not scheduled, for then its order means nothing.
    """
    if "is_scheduled=true" not in text.partition("\n")[0]:
        raise UserError("this HLO is not scheduled: pass the text of a compiled program")
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
    attributes = tail if opcode == "parameter" else tail[close:]
    return HloInstruction(name, opcode, shape, operands, attributes)


def _closing(text: str) -> int:
    """Return the position behind the parenthesis that closes the one `text` starts with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise UserError(f"unbalanced parentheses in HLO: {text[:80]}")


def called(instruction: HloInstruction) -> tuple[str, ...]:
    """Return the names of the computations that `instruction` calls."""
    found = _CALLS.findall(instruction.attributes)
    return tuple(n for group in found for n in re.findall(r"[\w.\-]+", group))


_OP_NAME = re.compile(r'op_name="([^"]*)"')


def op_name(instruction: HloInstruction) -> str:
    """Return where in the JAX program an instruction is from; "" where XLA does not say."""
    found = _OP_NAME.search(instruction.attributes)
    return found[1] if found else ""


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


def collectives_of(computation: HloComputation) -> tuple[Collective, ...]:
    """Return the collectives of one computation, an async pair counted once."""
    return tuple(
        _collective(instruction, computation)
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
        groups=device_groups(start.attributes),
        is_async=start.opcode.endswith("-start") and not is_blocking(start),
    )


def done_of(start: HloInstruction, computation: HloComputation) -> HloInstruction:
    """Return the done of an async start."""
    opcode = start.opcode.removesuffix("-start") + "-done"
    for instruction in computation.instructions:
        if instruction.opcode == opcode and start.name in instruction.operands:
            return instruction
    raise UserError(f"{start.name} in {computation.name} has no {opcode}")


def is_blocking(start: HloInstruction) -> bool:
    """Whether XLA runs this async start to its end before it goes on."""
    return re.search(r'"is_sync":\s*true', start.attributes) is not None


# As HLO prints it, and escaped once more in proto text; a quote inside is written \\22.
_CODE = re.compile(r'\bmodule = \\?"[^"]*"')


def without_code(text: str) -> str:
    """Cut the Mosaic kernels' code, half a megabyte per call, out of HLO or a schedule dump."""
    return _CODE.sub("module cut", text)


_DTYPE_BITS = re.compile(r"[a-z]+?(\d+)(?:e\d+m\d+\w*)?$")


def shape_bytes(shape: str) -> int:
    """Return the bytes of a printed shape; of a tuple, the sum of its parts."""
    arrays = (array.rstrip("]").split("[") for array in array_shapes(shape))
    return sum(_array_bytes(dtype, dims) for dtype, dims in arrays)


def array_shapes(shape: str) -> tuple[str, ...]:
    """Return the arrays of a printed shape, in order, without layouts: ("bf16[8,4]", "s32[]")."""
    return tuple(re.findall(r"[a-z]\w*\[[\d,<=]*\]", re.sub(r"\{[^}]*\}", "", shape)))


def _array_bytes(dtype: str, dims: str) -> int:
    count = int(np.prod([int(d.removeprefix("<=")) for d in dims.split(",") if d], dtype=np.int64))
    if dtype == "pred":
        return count
    if dtype == "token":
        return 0
    bits = _DTYPE_BITS.match(dtype)
    if bits is None:
        raise UserError(f"HLO element type {dtype!r} is not known to shape_bytes")
    return -(-count * int(bits[1]) // 8)
