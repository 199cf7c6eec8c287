"""Groups of rows that are hard to get right, and one NumPy product per group to compare with."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.grouped.choose import choose

HOPPER = choose("auto", jnp.bfloat16, (64,)) == "mosaic"
IMPLEMENTATIONS = [
    "dense",
    "blocks",
    pytest.param("mosaic", marks=pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")),
]
#: Rows, and sizes of groups that hold at most these.
CASES = {
    "balanced": (512, [128, 128, 128, 128]),
    "random": (512, [97, 203, 71, 141]),
    "skewed_4x": (640, [320, 107, 107, 106]),
    "everything_in_one_group": (300, [0, 0, 300, 0]),
    "empty_groups": (400, [0, 250, 0, 150, 0]),
    "rows_of_nobody": (512, [100, 3, 200]),
    "only_rows_of_nobody": (256, [0, 0]),
    "rows_no_multiple_of_a_tile": (333, [130, 129, 74]),
    "groups_smaller_than_a_tile": (300, [1, 2, 3, 7, 8, 9, 63, 64, 65, 66]),
    "one_group": (257, [257]),
    "one_row": (1, [0, 1]),
}


def per_group(function, sizes, rows, cols):
    """function(group, its rows as a slice) in the rows of each group, 0 elsewhere."""
    out, start = np.zeros((rows, cols)), 0
    for group, size in enumerate(sizes):
        out[start : start + size] = function(group, slice(start, start + size))
        start += size
    return out


def expected(x, w, grad, sizes):
    """out, grad_x, grad_w of sum(out * grad), in float64."""
    rows, groups = len(x), len(sizes)
    out = per_group(lambda g, r: x[r] @ w[g], sizes, rows, w.shape[2])
    grad_x = per_group(lambda g, r: grad[r] @ w[g].T, sizes, rows, w.shape[1])
    bounds = np.cumsum([0, *sizes])
    own = [slice(bounds[g], bounds[g + 1]) for g in range(groups)]
    return out, grad_x, np.stack([x[r].T @ grad[r] for r in own])


def make(case, dtype, d_in=128, d_out=192):
    rows, sizes = CASES[case]
    rng = np.random.default_rng(0)
    shapes = (rows, d_in), (len(sizes), d_in, d_out), (rows, d_out)
    return sizes, [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def close(actual, wanted, dtype):
    """Within the dtype's rounding of the largest values: sums cancel."""
    scale = max(np.abs(wanted).max(initial=0), 1e-3)
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, atol=tolerance * scale)


def as_float64(arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def grid():
    """Yields every (implementation, case, dtype) that there is; what only differs in size is slow.

    On a Hopper GPU all of its kernels' cases are quick.
    """
    quick = {"empty_groups", "rows_of_nobody", "groups_smaller_than_a_tile"}
    for implementation in ("dense", "blocks", "mosaic"):
        for case in CASES:
            for dtype in (jnp.float32, jnp.bfloat16):
                if implementation == "mosaic" and dtype == jnp.float32:
                    continue
                marks = []
                if case not in quick or (implementation, dtype) == ("dense", jnp.bfloat16):
                    marks.append(pytest.mark.slow)
                if implementation == "mosaic":
                    marks = [pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")]
                yield pytest.param(implementation, case, dtype, marks=marks)
