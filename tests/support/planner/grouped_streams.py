"""Streams whose tokens go through grouped experts between two all-to-alls, for compile tests."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe_jax.mesh.xla_options import compiler_options
from moe_jax.moe.grouped import gated_mlp


def two_streams(mesh, rows, groups, d, f):
    """The gradients of two streams of all-to-all, gated MLP, all-to-all, over shared weights.

    Args:
        mesh: all devices on its expert axis.
        rows: of a device and stream.
        groups: of a device.
        d: size of a row.
        f: size of a hidden layer.
    """

    def stream(x_rd, sizes_l, weights):
        y_rd = gated_mlp(_exchanged(x_rd), *weights, sizes_l, implementation="mosaic")
        return _exchanged(y_rd).astype(jnp.float32)

    def _exchanged(x_rd):
        sent = x_rd.reshape(mesh.size, -1, d)
        return jax.lax.all_to_all(sent, "expert", 0, 0).reshape(rows, d)

    def loss(xs, weights, sizes):
        squares = [(stream(*each, weights) ** 2).sum() for each in zip(xs, sizes, strict=True)]
        return sum(squares)

    gradients = jax.grad(loss, argnums=(0, 1))
    mapped = jax.shard_map(
        gradients, mesh=mesh, in_specs=P("expert"), out_specs=P("expert"), check_vma=False
    )

    def abstract(size, *rest, dtype=jnp.bfloat16):
        sharding = NamedSharding(mesh, P("expert"))
        return jax.ShapeDtypeStruct((mesh.size * size, *rest), dtype, sharding=sharding)

    x, sizes = abstract(rows, d), abstract(groups, dtype=jnp.int32)
    up, down = abstract(groups, d, f), abstract(groups, f, d)
    arguments = ([x, x], [up, up, down], [sizes, sizes])
    return jax.jit(mapped, compiler_options=compiler_options("gpu")), arguments
