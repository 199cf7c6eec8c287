"""A model on a mesh: config, topology, structure and layout, with no data and nothing to train.

Training adds an optimiser and a step (`training/step.py`), inference a cache and its programs.
"""

from dataclasses import dataclass

import jax
from jax.sharding import Mesh, NamedSharding

from moe_jax.config import Config, check
from moe_jax.data.batch import BATCH_SPEC, stream_tokens
from moe_jax.hardware.topology import Topology, find_topology
from moe_jax.mesh.build import build_mesh, host_table, warn_of_slow_tensor_axis
from moe_jax.model.parallel import Parallel, resolve_parallel
from moe_jax.model.skeleton import Skeleton


@dataclass(frozen=True)
class Session:
    """What every use of a model on a mesh needs."""

    #: "cpu" or "gpu".
    platform: str
    topology: Topology
    skeleton: Skeleton
    parallel: Parallel

    @property
    def config(self) -> Config:
        """The resolved config that everything here was built from."""
        return self.skeleton.config

    @property
    def mesh(self) -> Mesh:
        """The devices, with all axes of `axes.py`."""
        return self.parallel.mesh

    def batch_sharding(self) -> NamedSharding:
        """Return where [accumulation, streams, batch, seq] arrays live."""
        return NamedSharding(self.mesh, BATCH_SPEC)


def make_session(
    config: Config,
    platform: str,
    *,
    batch_tokens: int | None = None,
    mesh: Mesh | None = None,
) -> Session:
    """Build the mesh over all devices of the job and resolve what the config leaves open.

    Args:
        config: the run; `mesh.build.prepare_devices` has been called for it.
        platform: "cpu" or "gpu", what `prepare_devices` returned.
        batch_tokens: tokens of one stream on one device, for `exchange.transport = "auto"`; by
            default those of a training step.
        mesh: one that is built already, as the config says, over some of the devices perhaps.

    Raises:
        UserError: config and devices do not fit.
    """
    check(config, jax.device_count() if mesh is None else mesh.size)
    mesh = build_mesh(config.mesh) if mesh is None else mesh
    topology = find_topology(config.runtime.cluster, list(mesh.devices.flat))
    warn_of_slow_tensor_axis(config.mesh, topology)
    parallel = resolve_parallel(
        config,
        mesh,
        platform=platform,
        hosts=host_table(mesh, topology),
        batch_tokens=batch_tokens or stream_tokens(config),
    )
    return Session(platform, topology, Skeleton(config), parallel)
