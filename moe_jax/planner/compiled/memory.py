"""What a device's memory holds when most of it is in use, by purpose; and whether it fits.

Which values are alive is XLA's own account (`xla/buffers.py`); what they are for is read off the
instructions that write them.
"""

import re
from collections import Counter
from collections.abc import Mapping

from moe_jax.model.stack import LAYERS
from moe_jax.planner.report.figures import Memory, MemoryPart
from moe_jax.planner.xla.buffers import Buffers, Value
from moe_jax.planner.xla.hlo import HloComputation, HloInstruction, array_shapes, op_name
from moe_jax.planner.xla.loops import entry_of
from moe_jax.planner.xla.timeline import COLLECTIVES
from moe_jax.planner.xla.work import dimensions

Module = Mapping[str, HloComputation]

#: The names of parts, as they are printed.
PARAMETERS = "parameters"
OPTIMISER = "optimiser"
BATCH = "batch and counters"
CACHE = "cache"
GRADIENTS = "gradients"
SAVED = "saved activations"
ACTIVATIONS = "activations"
EXCHANGE = "exchange buffers"
WORKSPACE = "workspace"
FRAGMENTATION = "fragmentation"

_FORWARD_LAYERS = re.compile(rf"\b{LAYERS}\)?(/shard_map)?/while$")


def make_memory(buffers: Buffers, module: Module, capacity_bytes: int) -> Memory:
    """Sort a program's memory into parts that add up to its peak.

    Arguments: parameters, optimiser, cache, and the batch with counters. Temporary values, in this
    order: what collectives deliver or are about to send (exchange buffers); scratch of library
    calls, tables of pointers and a layer's slice of the parameters (workspace); arrays of the
    shape of a parameter in a program with an optimiser (gradients, and updates in the making);
    results of the forward loop over layers that backward waits for (saved activations); all else
    (activations).

    Args:
        buffers: XLA's buffer assignment.
        module: the same program's text.
        capacity_bytes: of the device.
    """
    entry = module[entry_of(module)]
    names = {_number(i): op_name(i) for i in entry.instructions if i.opcode == "parameter"}
    parts: Counter[str] = Counter()
    for number, size in buffers.arguments.items():
        parts[_argument(names[number])] += size
    purposes = _Purposes(module, entry, trains=OPTIMISER in parts)
    for value in buffers.live:
        parts[purposes.of(value)] += value.bytes
    parts[WORKSPACE] += buffers.constant_bytes + buffers.output_bytes
    parts[FRAGMENTATION] = buffers.total_bytes - buffers.live_bytes
    return Memory(
        kind="compiled",
        peak_bytes=buffers.total_bytes,
        live_bytes=buffers.live_bytes,
        capacity_bytes=capacity_bytes,
        parts=tuple(MemoryPart(name, size) for name, size in parts.most_common() if size),
    )


def _number(parameter: HloInstruction) -> int:
    return int(parameter.attributes.partition(")")[0])


def _argument(name: str) -> str:
    """Return what an argument is for, by its path in the function's signature."""
    if "opt_state" in name:
        return OPTIMISER
    if name.startswith("memory.cache"):
        return CACHE
    return PARAMETERS if re.match(r"(state|weights)\.(params|buffers)\b", name) else BATCH


class _Purposes:
    """Tells what a temporary value is for."""

    def __init__(self, module: Module, entry: HloComputation, *, trains: bool):
        self._module = module
        self._trains = trains
        shapes = [
            (_squeezed(i.shape), "stacks" in op_name(i))
            for i in entry.instructions
            if i.opcode == "parameter" and _argument(op_name(i)) == PARAMETERS
        ]
        whole = {dims for dims, _ in shapes}
        self._slices = {dims[1:] for dims, stacked in shapes if stacked and len(dims) > 2}
        self._like_parameters = {dims for dims in whole if len(dims) > 1} | self._slices

    def of(self, value: Value) -> str:
        """Return the name of the part that a value belongs to."""
        if value.computation not in self._module:
            # The text writes an asynchronous collective in one line, without its computation.
            return EXCHANGE
        computation = self._module[value.computation]
        writer = computation.by_name[value.instruction]
        if _communicates(writer) or _is_sent(writer, computation):
            return EXCHANGE
        shape = _part_of(writer.shape, value.index)
        scratch = writer.opcode == "custom-call" and shape.startswith(("u8", "s8"))
        if scratch or not shape:
            return WORKSPACE
        dims = _squeezed(shape)
        if dims in self._slices and op_name(writer).endswith("dynamic_slice"):
            return WORKSPACE
        if self._trains and dims in self._like_parameters:
            return GRADIENTS
        if self._trains and writer.opcode == "while" and _FORWARD_LAYERS.search(op_name(writer)):
            return SAVED
        return ACTIVATIONS


def _communicates(instruction: HloInstruction) -> bool:
    return instruction.opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES


def _is_sent(writer: HloInstruction, computation: HloComputation) -> bool:
    """Whether a collective reads the value, as it is or under another shape."""
    users = [i for i in computation.instructions if writer.name in i.operands]
    return any(
        _communicates(user) or (user.opcode == "bitcast" and _is_sent(user, computation))
        for user in users
    )


def _part_of(shape: str, index: tuple[int, ...]) -> str:
    """Return the array at an index of a printed shape; "" for a tuple's own table of pointers.

    Tuples in tuples are flattened: only asynchronous starts have them.

    Args:
        shape: as the program's text has it.
        index: into nested tuples.
    """
    arrays = array_shapes(shape)
    if not shape.startswith("("):
        return arrays[0]
    return arrays[index[-1]] if index and index[-1] < len(arrays) else ""


def _squeezed(shape: str) -> tuple[int, ...]:
    return tuple(d for d in dimensions(shape) if d != 1)
