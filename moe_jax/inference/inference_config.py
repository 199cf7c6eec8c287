"""A model's configuration, made to infer: which mesh, and nothing of how it was trained.

Reading configurations and weights is `loading.py`.
"""

import logging
import math
from collections.abc import Mapping

from jax.sharding import Mesh

from moe_jax.axes import AXES, BATCH_AXES
from moe_jax.config import Config, check
from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import MeshConfig, PipelineConfig
from moe_jax.errors import UserError
from moe_jax.mesh.build import count_gpus, mesh_shape, running_devices

logger = logging.getLogger(__name__)

#: What a caller may give for a mesh: axis sizes, or the mesh itself.
AnyMesh = MeshConfig | Mapping[str, int] | Mesh | None


def inference_config(config: Config, mesh: MeshConfig) -> Config:
    """Return the config with which a model infers on a mesh, checked.

    Dropping tokens would make a text depend on its neighbours; a pipeline has nothing to pass on,
    so its devices take a share of the batch. Streams stay: prompts are read in as many.

    Raises:
        UserError: the model cannot be split so.
    """
    flat = without_pipeline(mesh)
    rows = math.prod(getattr(flat, axis) for axis in BATCH_AXES)
    data = config.data.model_copy(update={"document_mask": "none"})
    exchange = config.exchange.model_copy(update={"overflow": "rounds"})
    batch = rows * exchange.streams
    train = config.train.model_copy(update={"accumulation": 1, "global_batch": batch})
    changes = {"mesh": flat, "data": data, "exchange": exchange, "train": train}
    found = config.model_copy(update=changes | {"pipeline": PipelineConfig()})
    check(found)
    return found


def without_pipeline(mesh: MeshConfig) -> MeshConfig:
    """Return a mesh of as many devices whose pipe axis is folded into the data axis."""
    if mesh.pipe == 1:
        return mesh
    logger.info(
        "inference has no pipeline: mesh.pipe = %d joins mesh.data = %d", mesh.pipe, mesh.data
    )
    return mesh.model_copy(update={"pipe": 1, "data": mesh.pipe * mesh.data})


def default_mesh(model: ModelConfig, devices: int) -> MeshConfig:
    """Return a mesh for any number of devices: experts over as many as divide them, the rest
    data."""
    experts = math.gcd(model.moe.num_experts, devices) if "moe" in model.layers else 1
    return MeshConfig(data=devices // experts, expert=experts)


def choose_mesh(config: Config, asked: AnyMesh, *, fixed: bool) -> MeshConfig:
    """Return the mesh to infer on.

    Args:
        config: of the model; its mesh is used where it suits the devices.
        asked: what the caller wants; None leaves the choice.
        fixed: whether the config's own mesh is what the caller wants.
    """
    if asked is not None:
        return mesh_config(asked)
    size = math.prod(mesh_shape(config.mesh))
    here = running_devices() or (0 if config.runtime.platform == "cpu" else count_gpus())
    # Without GPUs the CPU emulates as many devices as are wanted.
    if fixed or not here or here == size:
        return config.mesh
    found = default_mesh(config.model, here)
    logger.info("%d devices: mesh.data = %d, mesh.expert = %d", here, found.data, found.expert)
    return found


def mesh_config(asked: MeshConfig | Mapping[str, int] | Mesh) -> MeshConfig:
    """Return axis sizes; raise UserError for axes that there are not."""
    sizes = asked.shape if isinstance(asked, Mesh) else asked
    if isinstance(sizes, MeshConfig):
        return sizes
    unknown = [axis for axis in sizes if axis not in AXES]
    if unknown:
        raise UserError(f"mesh axes {unknown} are not known: axes are {', '.join(AXES)}")
    return MeshConfig(**sizes)
