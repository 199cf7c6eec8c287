"""Collectives by themselves, at several sizes, over all devices of a job.

The only place outside the exchange that calls collectives: it measures them one at a time, where
the exchange moves tokens with them.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from moe_jax.axes import EXPERT
from moe_jax.bench.harness import measure
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import CollectiveKind, CollectiveTime
from moe_jax.mesh.xla_options import compiler_options
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

_MOVES: dict[CollectiveKind, Callable[[jax.Array], jax.Array]] = {
    "all-to-all": lambda x: jax.lax.all_to_all(x, EXPERT, 0, 0, tiled=True),
    "all-gather": lambda x: jax.lax.all_gather(x, EXPERT, axis=0, tiled=True),
    "all-reduce": lambda x: jax.lax.psum(x, EXPERT),
    "reduce-scatter": lambda x: jax.lax.psum_scatter(x, EXPERT, scatter_dimension=0, tiled=True),
}
#: Every process of a job makes as many calls as the others.
_CALLS = 20


def sizes_bytes(dispatch_bytes: int) -> tuple[int, ...]:
    """Return the operand sizes to measure: one that shows latency, up to a whole dispatch."""
    return tuple(sorted({2**16, dispatch_bytes // 64, dispatch_bytes // 8, dispatch_bytes}))


def collective_times(
    mesh: Mesh, hosts: int, platform: str, sizes: tuple[int, ...], repeats: int = 9
) -> Iterator[CollectiveTime]:
    """Yield the times of all kinds at all sizes; nothing on a mesh of one device.

    Args:
        mesh: all its devices are on the expert axis.
        hosts: over which its devices are spread evenly.
        platform: "cpu" or "gpu".
        sizes: bytes of one device's operand, rounded up to whole bfloat16 per device.
        repeats: timed batches of each.

    Raises:
        UserError: some devices are on another axis.
    """
    devices = mesh.shape[EXPERT]
    if devices != mesh.size:
        raise UserError(
            f"collectives are measured over the expert axis ({devices} devices), but the mesh has "
            f"{mesh.size}: put all devices on mesh.expert"
        )
    if devices == 1:
        return
    for kind, move in _MOVES.items():
        mapped = jax.jit(
            on_device_shards(move, mesh, in_specs=BATCH, out_specs=BATCH),
            compiler_options=compiler_options(platform),
        )
        for size in sizes:
            x = _operand(mesh, size)
            timing = measure(lambda f=mapped, x=x: f(x), calls=_CALLS, repeats=repeats)
            local_bytes = x.nbytes // devices
            yield CollectiveTime(kind, devices, hosts, local_bytes, timing.seconds)


def _operand(mesh: Mesh, size: int) -> jax.Array:
    """Return an array of which each device holds `size` bytes."""
    unit = 2 * mesh.size
    local = -(-size // unit) * mesh.size
    make = jax.jit(
        lambda: jax.random.normal(jax.random.key(0), (mesh.size * local,), jnp.bfloat16),
        out_shardings=NamedSharding(mesh, BATCH),
    )
    return jax.block_until_ready(make())
