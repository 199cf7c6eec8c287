"""Layouts as text; what they do to arrays is tested in test_layout.py."""

import pytest

from moe_jax.errors import UserError
from moe_jax.interop.tensors.layout_text import Axis, Part, Pick, parse_layout


def test_axes_get_their_sizes_from_our_slab():
    theirs, ours = parse_layout("(h m) d -> d h m", (6, 4, 3), {})
    assert theirs == ((Axis("h", 4), Axis("m", 3)), (Axis("d", 6),))
    assert ours == (("d",), ("h",), ("m",))


def test_one_of_several_and_parts_of_any_width():
    ((experts,), (columns, pick)), _ = parse_layout("e (f 1/2) -> e f", (4, 6), {})
    assert (experts, columns) == (Axis("e", 4), Axis("f", 6))
    assert (pick.index, pick.span) == (1, 2)
    assert isinstance(pick, Pick)
    ((heads, part), _), _ = parse_layout("(h n+r) d -> d h r", (6, 3, 2), {"n": 5})
    assert heads == Axis("h", 3)
    assert isinstance(part, Part)
    assert (part.start, part.span, part.size, part.index) == (5, 7, 2, slice(5, 7))


def test_a_number_is_an_axis_of_that_size():
    (dim,), ours = parse_layout("(i 2) -> (2 i)", (6,), {})
    assert dim == (Axis("i", 3), Axis("2", 2))
    assert ours == (("2", "i"),)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("d -> d f", (3,), "must read 'theirs -> ours' with 1 dimensions"),
        ("d -> d", (3, 4), "must read 'theirs -> ours' with 2 dimensions"),
        ("x+y d -> d", (3,), "needs the size of 'x'"),
        ("a+b d -> d", (3,), r"none of the parts joined by \+ is on our side"),
        ("d d -> d", (3,), r"axes \['d', 'd'\] on their side"),
        ("(i 2) -> (2 i)", (5,), "of 5 does not fit"),
    ],
)
def test_text_that_means_nothing_is_refused(text, shape, message):
    with pytest.raises(UserError, match=message):
        parse_layout(text, shape, {"a": 1, "b": 2})
