"""What an instruction of a compiled program has to do: FLOPs, and bytes of memory it touches.

The rates of a chip are `hardware/rates.py`; XLA's own estimates of times are in `timeline.py`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from moe_jax.errors import UserError
from moe_jax.hardware.rates import Rates
from moe_jax.mesh.kernel_cost import told_cost
from moe_jax.model.flops import mean_context
from moe_jax.nn.dot_attention.documents import SHORTER
from moe_jax.planner.xla.hlo import HloComputation, HloInstruction, called, shape_bytes

WorkKind = Literal[
    "matmul", "matmul_grouped", "attention_forward", "attention_backward", "gather", "other"
]
Module = Mapping[str, HloComputation]

#: Custom-call targets of cuDNN's attention; those of the gradient end in "Backward".
ATTENTION = "__cudnn$fmha"
#: What takes no time by itself; control flow is counted through what it calls.
_FREE = (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "while", "conditional", "call"),
)
#: What reads only part of its first operand: as much as it returns.
_SLICING = ("dynamic-slice", "slice", "gather")
#: What overwrites part of its first operand, in place, and which operand is written there.
_UPDATING = {"dynamic-update-slice": 1, "scatter": 2}


@dataclass(frozen=True)
class InstructionWork:
    """FLOPs and bytes read plus written, of one execution on one device.

    FLOPs are those of matrix products, two per multiply-add; of attention, causal model FLOPs.
    """

    kind: WorkKind
    flops: int
    bytes: int


def seconds(work: InstructionWork, rates: Rates) -> float:
    """Return the time of one execution: of its arithmetic or its memory, whichever is longer."""
    if work.kind == "matmul_grouped":
        return rates.grouped_s(work.flops, work.bytes)
    if work.kind == "attention_forward":
        return work.flops / rates.attention_forward_flops_per_s
    if work.kind == "attention_backward":
        return work.flops / rates.attention_backward_flops_per_s
    gathers = work.kind == "gather"
    memory = rates.gather_bytes_per_s if gathers else rates.memory_bytes_per_s
    return max(work.flops / rates.matmul_flops_per_s, work.bytes / memory)


def work_of(
    instruction: HloInstruction, computation: HloComputation, module: Module
) -> InstructionWork:
    """Return the work of one instruction, of a fusion that of all it holds.

    Args:
        instruction: of `computation`.
        computation: where its operands are.
        module: where the computations are that it calls.
    """
    if instruction.opcode in _FREE:
        return InstructionWork("other", 0, 0)
    target = custom_call_target(instruction)
    if target.startswith(ATTENTION):
        return _attention(instruction, target)
    if target and (told := told_cost(instruction.attributes)):
        if told.kind not in get_args(WorkKind):
            raise UserError(
                f"{instruction.name} says that it is {told.kind!r}: make it one of "
                f"{', '.join(get_args(WorkKind))}, or add its rate to hardware/rates.py"
            )
        kind = cast(WorkKind, told.kind)
        return InstructionWork(kind, told.flops, _plain(instruction, computation))
    inner = [module[name] for name in called(instruction) if instruction.opcode == "fusion"]
    flops = matmul_flops(instruction, computation, module)
    opcodes = {i.opcode for body in inner for i in body.instructions} | {instruction.opcode}
    kind = "matmul" if flops else "gather" if "gather" in opcodes else "other"
    return InstructionWork(
        kind, flops, _touched(inner[0]) if inner else _plain(instruction, computation)
    )


def custom_call_target(instruction: HloInstruction) -> str:
    """Return the library function that a custom call stands for, else ""."""
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def matmul_flops(instruction: HloInstruction, computation: HloComputation, module: Module) -> int:
    """Return FLOPs of an instruction's matrix products: 2 x result elements x contracted size."""
    if instruction.opcode == "dot":
        names = ("lhs_contracting_dims", r"\{([\d,]*)\}")
    elif custom_call_target(instruction).startswith("__cublas"):
        names = ('"lhs_contracting_dimensions":', r"\[([^\]]*)\]")
    elif instruction.opcode == "fusion":
        bodies = [module[name] for name in called(instruction)]
        return sum(matmul_flops(i, body, module) for body in bodies for i in body.instructions)
    else:
        return 0
    return 2 * elements(instruction.shape) * _contracted(instruction, computation, *names)


def is_mixed_matmul(
    instruction: HloInstruction, computation: HloComputation, module: Module
) -> bool:
    """Whether it multiplies bfloat16 matrices into a float32 result.

    XLA's estimator (jaxlib 0.10.2) prices that at the rate of plain float32 arithmetic, 64 x what
    tensor cores take: 44 ms instead of 0.7 for a chunk of the loss.
    """
    if not instruction.shape.removeprefix("(").startswith("f32"):
        return False
    bodies = [module[name] for name in called(instruction) if instruction.opcode == "fusion"]
    return any(
        i.opcode == "dot" and body.by_name[i.operands[0]].shape.startswith("bf16")
        for body in (bodies or [computation])
        for i in (body.instructions if bodies else [instruction])
    )


def is_in_place_scatter(instruction: HloInstruction, module: Module) -> bool:
    """Whether it writes some elements of an array that it gets, such as a cache.

    XLA's estimator (jaxlib 0.10.2) counts the whole array as read and written.
    """
    return any(
        i.opcode == "scatter"
        for name in called(instruction)
        if instruction.opcode == "fusion"
        for i in module[name].instructions
    )


def _contracted(
    instruction: HloInstruction, computation: HloComputation, name: str, form: str
) -> int:
    found = re.search(rf"{name}[ =]*{form}", instruction.attributes)
    if found is None:
        raise UserError(f"{instruction.name}: a matrix product that contracts nothing known")
    dims = dimensions(computation.by_name[instruction.operands[0]].shape)
    return math.prod(dims[int(d)] for d in re.findall(r"\d+", found[1]))


def dimensions(shape: str) -> tuple[int, ...]:
    """Return the dimensions of a printed shape; of a tuple, those of its first array."""
    found = re.search(r"\[([\d,<=]*)\]", shape)
    if found is None:
        raise UserError(f"no dimensions in the HLO shape {shape!r}")
    return tuple(int(d.removeprefix("<=")) for d in found[1].split(",") if d)


def elements(shape: str) -> int:
    """Return the number of elements of a printed shape; of a tuple, those of its first array."""
    return math.prod(dimensions(shape))


def _attention(call: HloInstruction, target: str) -> InstructionWork:
    """Return causal model FLOPs, 4 x elements x mean context forward and twice that backward."""
    found = re.search(r"backend_config=(\{.*)", call.attributes)
    if found is None:
        raise UserError(f"{call.name}: a cuDNN attention call without a configuration")
    config: dict[str, Any] = json.JSONDecoder().raw_decode(found[1])[0]["cudnn_fmha_backend_config"]
    length = int(config["intermediate_tensor_shape"]["dimensions"][-1])
    context = mean_context(length, int(config["sliding_window_length"]))
    # Of the calls that share packed documents the longest class counts, as if it had them all.
    flops = 0 if SHORTER in call.attributes else round(4 * elements(call.shape) * context)
    if target.endswith("Backward"):
        return InstructionWork("attention_backward", 2 * flops, shape_bytes(call.shape))
    return InstructionWork("attention_forward", flops, shape_bytes(call.shape))


def _touched(body: HloComputation) -> int:
    """Return the bytes that a fusion reads of its parameters and writes of its root."""
    users: dict[str, list[HloInstruction]] = {}
    for i in body.instructions:
        for operand in i.operands:
            users.setdefault(operand, []).append(i)
    read = sum(_read(i, users) for i in body.instructions if i.opcode == "parameter")
    return read + _written_by(body.instructions[-1], body)


def _read(value: HloInstruction, users: Mapping[str, list[HloInstruction]]) -> int:
    """Return the bytes read of a value: all, unless every user takes a slice, or overwrites one."""
    total = 0
    for user in users.get(value.name, []):
        first = user.operands[0] == value.name
        if user.opcode in _SLICING and first:
            total += shape_bytes(user.shape)
        elif user.opcode == "bitcast":
            total += _read(user, users)
        elif not (user.opcode in _UPDATING and first):
            return shape_bytes(value.shape)
    return min(total, shape_bytes(value.shape))


def _written_by(root: HloInstruction, body: HloComputation) -> int:
    if root.opcode in ("tuple", "bitcast"):
        return sum(_written_by(body.by_name[name], body) for name in root.operands)
    if root.opcode in _UPDATING:
        return shape_bytes(body.by_name[root.operands[_UPDATING[root.opcode]]].shape)
    return shape_bytes(root.shape)


def _plain(instruction: HloInstruction, computation: HloComputation) -> int:
    """Return the bytes that an instruction outside fusions reads and writes."""
    if instruction.opcode in _SLICING:
        return 2 * shape_bytes(instruction.shape)
    operands = [shape_bytes(computation.by_name[name].shape) for name in instruction.operands]
    if instruction.opcode in _UPDATING:
        return 2 * operands[_UPDATING[instruction.opcode]]
    return sum(operands) + shape_bytes(instruction.shape)
