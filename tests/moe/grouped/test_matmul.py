"""Every implementation against one NumPy product per group: values, gradients, and odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.grouped import gated_mlp, grouped_matmul
from moe_jax.moe.grouped.choose import choose
from moe_jax.moe.grouped.matmul import require_shapes
from moe_jax.moe.grouped.mlp import require_mlp_shapes

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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_values_and_gradients(implementation, case, dtype):
    if implementation == "mosaic" and dtype == jnp.float32:
        pytest.skip("no float32 kernel")
    sizes, (x, w, grad) = make(case, dtype)

    def product(x, w, sizes_l):
        return grouped_matmul(x, w, sizes_l, implementation=implementation)

    out, pull = jax.vjp(jax.jit(product), x, w, jnp.asarray(sizes, jnp.int32))
    grad_x, grad_w, _ = pull(grad)
    wanted = expected(*as_float64((x, w, grad)), sizes)
    assert (out.dtype, grad_x.dtype, grad_w.dtype) == (dtype,) * 3
    for actual, want in zip((out, grad_x, grad_w), wanted, strict=True):
        close(actual, want, dtype)
    for group in np.flatnonzero(np.asarray(sizes) == 0):
        assert not np.asarray(grad_w[group], np.float32).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_garbage_in_rows_of_nobody_reaches_nothing(implementation):
    sizes, (x, w, grad) = make("rows_of_nobody", jnp.bfloat16)
    used = sum(sizes)
    x, grad = x.at[used:].set(jnp.nan), grad.at[used:].set(jnp.inf)
    out, pull = jax.vjp(
        lambda x, w: grouped_matmul(
            x, w, jnp.asarray(sizes, jnp.int32), implementation=implementation
        ),
        x,
        w,
    )
    for array in (out, *pull(grad)):
        assert np.isfinite(np.asarray(array, np.float32)).all()
    assert not np.asarray(out[used:], np.float32).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float32_weights_get_float32_sums(implementation):
    sizes, (x, w, grad) = make("random", jnp.bfloat16)
    wide = w.astype(jnp.float32) + 1e-4  # what rounding takes away
    sizes_l = jnp.asarray(sizes, jnp.int32)
    _, pull = jax.vjp(lambda w: grouped_matmul(x, w, sizes_l, implementation=implementation), wide)
    (grad_w,) = pull(grad)
    assert grad_w.dtype == jnp.float32
    wanted = expected(*as_float64((x, w, grad)), sizes)[2]
    close(grad_w, wanted, jnp.float32)


def mlp_case(case, dtype, d=128, f=64):
    rows, sizes = CASES[case]
    rng, groups = np.random.default_rng(1), len(sizes)
    shapes = (rows, d), (groups, d, f), (groups, d, f), (groups, f, d)
    scales = (1, d**-0.5, d**-0.5, f**-0.5)
    arrays = [
        jnp.asarray(scale * rng.normal(size=shape), dtype)
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    return jnp.asarray(sizes, jnp.int32), arrays, jnp.asarray(rng.normal(size=(rows, d)), dtype)


def plain_mlp(x, w_gate, w_up, w_down, sizes_l):
    """The same in float32, one gather of weights per row."""
    ends = jnp.cumsum(sizes_l)
    row = jnp.arange(x.shape[0])
    group = jnp.minimum((row[:, None] >= ends).sum(1), len(sizes_l) - 1)
    x, *weights = (array.astype(jnp.float32) for array in (x, w_gate, w_up, w_down))
    gate, up = (jnp.einsum("rd,rdf->rf", x, w[group]) for w in weights[:2])
    out = jnp.einsum("rf,rfd->rd", jax.nn.silu(gate) * up, weights[2][group])
    return jnp.where((row < ends[-1])[:, None], out, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gated_mlp(implementation, case, dtype):
    if implementation == "mosaic" and dtype == jnp.float32:
        pytest.skip("no float32 kernel")
    sizes_l, arrays, grad = mlp_case(case, dtype)
    out, pull = jax.vjp(
        jax.jit(lambda *a: gated_mlp(*a, sizes_l, implementation=implementation)), *arrays
    )
    want, want_pull = jax.vjp(
        lambda *a: plain_mlp(*a, sizes_l), *(a.astype(jnp.float32) for a in arrays)
    )
    close(out, np.asarray(want), dtype)
    for actual, wanted in zip(pull(grad), want_pull(grad.astype(jnp.float32)), strict=True):
        assert actual.dtype == dtype
        close(actual, np.asarray(wanted), dtype)


def test_blocks_inside_scan_checkpoint_and_shard_map():
    sizes_l, arrays, _ = mlp_case("rows_of_nobody", jnp.float32)

    def loss(arrays, implementation):
        def layer(x, _):
            return x + gated_mlp(x, *arrays[1:], sizes_l, implementation=implementation), None

        return (jax.lax.scan(jax.checkpoint(layer), arrays[0], length=2)[0] ** 2).mean()

    def on_mesh(arrays):
        mesh = jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])
        spec = jax.sharding.PartitionSpec()
        inner = jax.shard_map(
            lambda arrays: loss(arrays, "blocks"),
            mesh=mesh,
            in_specs=(spec,),
            out_specs=spec,
            check_vma=False,
        )
        return inner(arrays)

    got = jax.jit(jax.grad(on_mesh))(arrays)
    want = jax.grad(loss)(arrays, "dense")
    for actual, wanted in zip(got, want, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_blocks_cost_what_the_rows_cost():
    """128 groups, as many rows as one of 4 groups: the loops' bodies hold no product of all."""
    x, w = jnp.ones((256, 8)), jnp.ones((128, 8, 8))
    text = (
        jax.jit(lambda x, w, s: grouped_matmul(x, w, s, implementation="blocks"))
        .lower(x, w, jnp.full(128, 2, jnp.int32))
        .as_text()
    )
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("tensor<8x8xf32>, tensor<8x8xf32>" in line for line in products)


@pytest.mark.parametrize(
    ("x", "w", "sizes", "message"),
    [
        ((4, 2), (3, 5, 1), (3,), "same i"),
        ((4, 2), (3, 2, 1), (2,), "one entry for each of the 3 groups"),
    ],
)
def test_shapes_that_do_not_match_are_refused(x, w, sizes, message):
    with pytest.raises(ValueError, match=message):
        require_shapes(x, w, sizes)


def test_an_mlp_whose_weights_do_not_match_is_refused():
    with pytest.raises(ValueError, match=r"down \(1, 4, 2\)"):
        require_mlp_shapes((1, 2, 3), (1, 2, 3), (1, 4, 2))
