"""The gated MLP: values and gradients against float32, what it keeps, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.grouped_cases import CASES, close, grid

from moe_jax.errors import UserError
from moe_jax.moe.grouped import gated_mlp, swiglu
from moe_jax.moe.grouped.mlp import require_mlp_shapes


def test_swiglu_is_silu_times_up_also_far_out():
    gate = jnp.array([-1e4, -3.0, 0.0, 2.0, 1e4])
    actual = swiglu(gate, jnp.full(5, 2.0))
    np.testing.assert_allclose(actual, 2 * jax.nn.silu(gate), rtol=1e-6, atol=1e-6)


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


@pytest.mark.parametrize(("implementation", "case", "dtype"), [*grid()])
def test_gated_mlp(implementation, case, dtype):
    sizes_l, arrays, grad = mlp_case(case, dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def run(mlp, arrays, grad):
        out, pull = jax.vjp(lambda *a: mlp(*a, sizes_l), *arrays)
        return out, pull(grad)

    out, grads = run(functools.partial(gated_mlp, implementation=implementation), arrays, grad)
    want, want_grads = run(
        plain_mlp, [a.astype(jnp.float32) for a in arrays], grad.astype(jnp.float32)
    )
    close(out, np.asarray(want), dtype)
    for actual, wanted in zip(grads, want_grads, strict=True):
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


def test_mlp_keeps_nothing_in_float32():
    """What waits for the backward pass: rows, gate and up, and the weights, all as they came."""
    r, groups, d, f = 640, 3, 256, 192
    w_up, w_down, rows = (
        jax.ShapeDtypeStruct(size, jnp.bfloat16)
        for size in ((groups, d, f), (groups, f, d), (r, d))
    )

    def residuals(x, gate, up, down, sizes):
        _, pull = jax.vjp(
            lambda *a: gated_mlp(*a, sizes, implementation="blocks"), x, gate, up, down
        )
        return jax.tree.leaves(pull)

    kept = jax.eval_shape(
        residuals, rows, w_up, w_up, w_down, jax.ShapeDtypeStruct((groups,), jnp.int32)
    )
    sizes = sorted(array.shape for array in kept if array.dtype == jnp.bfloat16 and array.size)
    assert sizes == sorted([(r, d), *[(r, f)] * 2, *[(groups, d, f)] * 2, (groups, f, d)])
    assert not any(array.dtype == jnp.float32 for array in kept)


def test_an_mlp_whose_weights_do_not_match_is_refused():
    with pytest.raises(UserError, match=r"down \(1, 4, 2\)"):
        require_mlp_shapes((1, 2, 3), (1, 2, 3), (1, 4, 2))
