"""XLA's buffer assignment: which values stand in memory when most of it is in use.

Read from a serialised HloProto (`xla/service/hlo.proto`), of which only a few numbered fields
matter. What the values are for is decided in `compiled/memory.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moe_jax.errors import UserError


@dataclass(frozen=True)
class Value:
    """A value in XLA's block of temporary memory, and the instruction that writes it."""

    bytes: int
    computation: str
    instruction: str
    #: Which part of the instruction's result, where that is a tuple.
    index: tuple[int, ...]


@dataclass(frozen=True)
class Buffers:
    """Bytes of one device: what XLA reserves, and what is alive at the fullest moment."""

    #: Size of each argument, by parameter number.
    arguments: Mapping[int, int]
    constant_bytes: int
    #: Results that reuse no argument.
    output_bytes: int
    #: The block for temporary values.
    temp_bytes: int
    #: Temporary values alive when those alive are most; values that share memory count once.
    live: tuple[Value, ...]

    @property
    def total_bytes(self) -> int:
        """What the program takes from the device."""
        outside = sum(self.arguments.values()) + self.constant_bytes + self.output_bytes
        return outside + self.temp_bytes

    @property
    def live_bytes(self) -> int:
        """What of it is in use at the fullest moment."""
        return self.total_bytes - self.temp_bytes + sum(v.bytes for v in self.live)


# Field numbers in hlo.proto.
_ASSIGNMENT = 3
_LOGICAL, _ALLOCATION, _TRACE = 1, 3, 4
_LOGICAL_ID, _LOGICAL_SIZE, _DEFINED_AT, _SHAPE_INDEX = 1, 2, 3, 3
_SIZE, _THREAD_LOCAL, _IS_PARAMETER, _PARAMETER, _LIVE_OUT, _CONSTANT = 2, 3, 5, 6, 7, 12
_EVENT = 1
_KIND, _BUFFER, _COMPUTATION, _INSTRUCTION, _CANONICAL = 1, 2, 3, 4, 5
_ALLOC, _FREE = 0, 1

#: Field number -> a number, or the bytes of a text or of another message: the schema knows which.
_Message = dict[int, Any]


def parse_buffers(proto: bytes) -> Buffers:
    """Read the buffer assignment of a compiled module.

    Args:
        proto: `Compiled.buffers`.

    Raises:
        UserError: when it holds no buffer assignment.
    """
    assignment = _message(memoryview(proto)).get(_ASSIGNMENT)
    if assignment is None:
        raise UserError("this HloProto holds no buffer assignment: dump the compiled module")
    parts = list(_fields(assignment))
    totals: Counter[str] = Counter()
    arguments = {}
    for raw in (_message(part) for number, part in parts if number == _ALLOCATION):
        kind = _kind(raw)
        totals[kind] += raw.get(_SIZE, 0)
        if kind == "argument":
            arguments[raw.get(_PARAMETER, 0)] = raw.get(_SIZE, 0)
    logical = [_message(part) for number, part in parts if number == _LOGICAL]
    events = [
        _message(event)
        for number, trace in parts
        if number == _TRACE
        for field, event in _fields(trace)
        if field == _EVENT
    ]
    by_id = {raw.get(_LOGICAL_ID, 0): raw for raw in logical}
    return Buffers(
        arguments, totals["constant"], totals["output"], totals["temp"], _fullest(events, by_id)
    )


def _kind(allocation: Mapping[int, int]) -> str:
    for field, kind in (
        (_THREAD_LOCAL, "register"),
        (_IS_PARAMETER, "argument"),
        (_CONSTANT, "constant"),
        (_LIVE_OUT, "output"),
    ):
        if allocation.get(field):
            return kind
    return "temp"


def _fullest(events: list[_Message], logical: Mapping[int, _Message]) -> tuple[Value, ...]:
    """Play allocations and releases; memory is free when none of its sharers needs it."""
    canonical: dict[int, int] = {}
    users: Counter[int] = Counter()
    live: dict[int, _Message] = {}
    size = most = 0
    fullest: dict[int, _Message] = {}
    for event in events:
        buffer: int = event.get(_BUFFER, 0)
        kind = event.get(_KIND, _ALLOC)
        if kind != _FREE:
            shared: int = event.get(_CANONICAL, buffer) if kind != _ALLOC else buffer
            home = canonical[buffer] = canonical.get(shared, shared)
            users[home] += 1
            live[home] = event
            size += logical[home].get(_LOGICAL_SIZE, 0) * (users[home] == 1)
        else:
            home = canonical[buffer]
            users[home] -= 1
            if not users[home]:
                del live[home]
                size -= logical[home].get(_LOGICAL_SIZE, 0)
        if size > most:
            most, fullest = size, dict(live)
    return tuple(_value(event, logical[home], logical) for home, event in fullest.items())


def _value(event: _Message, home: _Message, logical: Mapping[int, _Message]) -> Value:
    where = logical[event.get(_BUFFER, 0)].get(_DEFINED_AT, b"")
    index = [i for number, part in _fields(where) if number == _SHAPE_INDEX for i in _packed(part)]
    return Value(
        home.get(_LOGICAL_SIZE, 0),
        bytes(event.get(_COMPUTATION, b"")).decode(),
        bytes(event.get(_INSTRUCTION, b"")).decode(),
        tuple(index),
    )


def _message(data: memoryview) -> _Message:
    """Return field number -> value; of a repeated field, the last."""
    return dict(_fields(data))


def _fields(data: memoryview | bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of a message's fields, in protobuf's wire format."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            end = at + (8 if kind == 1 else 4)
            value, at = data[at:end], end
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise UserError(f"protobuf wire type {kind} is not known here")
        yield key >> 3, value


def _varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _packed(part: int | memoryview) -> Iterator[int]:
    """Yield a repeated integer, packed or one by one."""
    if isinstance(part, int):
        yield part
        return
    at = 0
    while at < len(part):
        value, at = _varint(part, at)
        yield value
