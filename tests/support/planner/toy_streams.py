"""Small programs that the compile tests hand to the worker."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe_jax.mesh.xla_options import compiler_options


def two_streams(mesh, tokens=512, d=16384):
    """Two streams of matmul, all-to-all, matmul, all-to-all, matmul, over shared weights."""

    def stream(x, weights):
        w_in, w_expert, w_out = weights
        sent = (x @ w_in).reshape(mesh.size, -1, d)
        got = jax.lax.all_to_all(sent, "expert", 0, 0).reshape(-1, d)
        back = jax.lax.all_to_all((got @ w_expert).reshape(mesh.size, -1, d), "expert", 0, 0)
        return back.reshape(-1, d) @ w_out

    def both(xs, weights):
        return [stream(x, weights) for x in xs]

    mapped = jax.shard_map(both, mesh=mesh, in_specs=(P("expert"), P()), out_specs=P("expert"))
    x = _abstract(mesh, (mesh.size * tokens, d), P("expert"))
    w = _abstract(mesh, (d, d), P())
    return jax.jit(mapped, compiler_options=compiler_options("gpu")), ([x, x], [w, w, w])


def no_collective(mesh, rows=256):
    x = _abstract(mesh, (mesh.size * rows, 512), P("expert"))
    return jax.jit(lambda x: jnp.tanh(x) * 2), (x,)


def broken(mesh):
    raise RuntimeError(f"cannot be built on {mesh.size} devices")


def dies(mesh):
    raise SystemExit(3)


def _abstract(mesh, shape, spec):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
