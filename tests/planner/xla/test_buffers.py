"""Buffer assignments written by hand in protobuf's wire format."""

import pytest

from moe_jax.planner.xla.buffers import Value, parse_buffers


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def message(*fields):
    """Fields are (number, int, bytes, str or message)."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def logical(number, size, index=()):
    where = message(*((3, message_packed(index)),) if index else ())
    return (1, message((1, number), (2, size), (3, where)))


def message_packed(numbers):
    return b"".join(varint(n) for n in numbers)


def allocation(size, *flags):
    return (3, message((2, size), *flags))


ALLOC, FREE, SHARE = 0, 1, 2


def trace(*events):
    packed = []
    for kind, buffer, *canonical in events:
        fields = [(1, kind), (2, buffer), (3, "main"), (4, f"op.{buffer}")]
        packed.append((1, message(*fields, *((5, c) for c in canonical))))
    return (4, message(*packed))


def proto(*assignment):
    return message((1, "a module, skipped"), (3, message(*assignment)))


SIZES = (logical(1, 100), logical(2, 300, (1, 0)), logical(3, 300), logical(4, 50))


def live(*events):
    found = parse_buffers(proto(*SIZES, allocation(1000), trace(*events)))
    return {value.instruction: value.bytes for value in found.live}


def test_fullest_moment_is_found():
    events = [(ALLOC, 1), (ALLOC, 2), (FREE, 1), (FREE, 2), (ALLOC, 4)]
    assert live(*events) == {"op.1": 100, "op.2": 300}


def test_values_that_share_memory_count_once_until_the_last_is_free():
    events = [(ALLOC, 2), (SHARE, 3, 2), (FREE, 2), (ALLOC, 4), (FREE, 3), (ALLOC, 1)]
    assert live(*events) == {"op.3": 300, "op.4": 50}


def test_memory_shared_after_its_first_owner_is_gone_counts_again():
    assert live((ALLOC, 2), (FREE, 2), (SHARE, 3, 2), (ALLOC, 4)) == {"op.3": 300, "op.4": 50}


def test_allocations_are_sorted_by_what_they_are():
    found = parse_buffers(
        proto(
            *SIZES,
            allocation(7, (5, 1), (6, 3)),
            allocation(20, (12, 1)),
            allocation(3, (7, 1)),
            allocation(1, (3, 1)),
            allocation(400),
            trace((ALLOC, 2)),
        )
    )
    assert found.arguments == {3: 7}
    assert (found.constant_bytes, found.output_bytes, found.temp_bytes) == (20, 3, 400)
    assert found.total_bytes == 430
    assert found.live_bytes == 330
    assert found.live == (Value(300, "main", "op.2", (1, 0)),)


def test_sizes_beyond_32_bits_are_read():
    found = parse_buffers(proto(logical(1, 5 << 40), allocation(6 << 40), trace((ALLOC, 1))))
    assert found.live[0].bytes == 5 << 40


def test_module_without_a_buffer_assignment_is_refused():
    with pytest.raises(ValueError, match="no buffer assignment"):
        parse_buffers(message((1, "a module")))
