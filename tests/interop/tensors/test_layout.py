"""A layout and its inverse, shares of fused tensors, and reading in part."""

import numpy as np
import pytest
from support.hf.tensor_layouts import slices_read, whole_slab

from moe_jax.interop.tensors.layout import Layout

#: (text, shape of our slab, further sizes)
CASES = (
    ("d -> d", (6,), {}),
    ("v d -> v d", (5, 6), {}),
    ("f d -> d f", (6, 5), {}),
    ("(h m) d -> d h m", (6, 4, 3), {}),
    ("d (h m) -> h m d", (4, 3, 6), {}),
    ("0/1 d -> d", (6,), {}),
    ("e (0/2 f) d -> e d f", (4, 6, 5), {}),
    ("e (1/2 f) d -> e d f", (4, 6, 5), {}),
    ("e d (f 1/2) -> e d f", (4, 6, 5), {}),
    ("(h n+r) d -> d h n", (6, 3, 4), {"r": 2}),
    ("(h n+(i 2)) d -> d h (2 i)", (6, 3, 4), {"n": 5}),
    ("c+(i 2) d -> d (2 i)", (6, 4), {"c": 3}),
    ("c+r d -> d c", (6, 4), {"r": 3}),
)
layouts = pytest.mark.parametrize("layout", [Layout(t, s, **k) for t, s, k in CASES], ids=repr)


def numbered(layout: Layout) -> np.ndarray:
    return np.arange(np.prod(layout.theirs_shape)).reshape(layout.theirs_shape)


@layouts
def test_what_is_read_and_written_back_is_the_same(layout):
    theirs = numbered(layout)
    slab = whole_slab(layout, theirs)
    assert slab.shape == layout.ours_shape
    out = np.full_like(theirs, -1)
    layout.to_theirs(slab, out)
    written = out >= 0
    assert (out[written] == theirs[written]).all()
    assert written.sum() == slab.size


@layouts
def test_a_part_reads_the_same_as_the_whole(layout):
    theirs = numbered(layout)
    cut = tuple(slice(size // 3, size // 3 + max(1, size // 2)) for size in layout.ours_shape)
    np.testing.assert_array_equal(layout.read(theirs, cut), whole_slab(layout, theirs)[cut])


@layouts
def test_a_part_is_found_in_what_is_read_for_it(layout):
    cut = tuple(slice(0, max(1, size // 2)) for size in layout.ours_shape)
    needed = whole_slab(layout, numbered(layout))[cut]
    box = numbered(layout)[slices_read(layout, cut)]
    assert np.isin(needed, box).all()


@pytest.mark.parametrize(
    ("text", "shape", "sizes", "read"),
    [
        # Outermost axes are ranges, also behind a pick; inner ones are read whole.
        ("(h m) d -> d h m", (6, 4, 3), {}, ((3, 6), (2, 4))),
        ("e (1/2 f) d -> e d f", (4, 6, 5), {}, ((1, 2), (6, 7), (2, 4))),
        ("e d (f 1/2) -> e d f", (4, 6, 5), {}, ((1, 2), (2, 4), (2, 4))),
        ("(h n+r) d -> d h n", (6, 3, 4), {"r": 2}, ((6, 12), (2, 4))),
        ("c+r d -> d r", (6, 3), {"c": 4}, ((5, 6), (2, 4))),
        ("(i 2) d -> d (2 i)", (6, 4), {}, ((0, 4), (2, 4))),
    ],
)
def test_ranges_of_outermost_axes_are_read_in_part(text, shape, sizes, read):
    layout = Layout(text, shape, **sizes)
    cut = tuple(slice(2, 4) if size == 6 else slice(1, 2) for size in shape)
    assert tuple((s.start, s.stop) for s in slices_read(layout, cut)) == read


def test_interleaved_pairs_become_halves():
    slab = whole_slab(Layout("(i 2) -> (2 i)", (6,)), np.array([0, 10, 1, 11, 2, 12]))
    assert slab.tolist() == [0, 1, 2, 10, 11, 12]


def test_fused_columns_are_told_apart():
    theirs = np.array([[[0, 10, 1, 11]]])
    even, odd = (Layout(f"e d (f {i}/2) -> e d f", (1, 1, 2)) for i in (0, 1))
    assert whole_slab(even, theirs).ravel().tolist() == [0, 1]
    assert whole_slab(odd, theirs).ravel().tolist() == [10, 11]


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("d", (3,), "theirs -> ours"),
        ("d f -> d", (3,), "needs the size of 'f'"),
        ("d -> d f", (3, 4), "on their side"),
        ("(i 2) -> (2 i)", (5,), "does not fit"),
        ("(a+b c) -> b c", (2, 3), "must come last"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(text, shape, message):
    with pytest.raises(ValueError, match=message):
        Layout(text, shape, a=1)


def test_a_slab_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"takes slabs of \(6, 5\)"):
        Layout("f d -> d f", (6, 5)).to_theirs(np.zeros((5, 6)))
