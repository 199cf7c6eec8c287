"""How inference differs from training, in the config: the only place that says so.

`inference_config` is what a model infers with, `decoding_config` what its decode step runs with;
`choose_mesh` says where. Reading configurations and weights is `loading.py`.
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
from moe_jax.mesh.build import mesh_shape
from moe_jax.mesh.platform import count_gpus, running_devices

logger = logging.getLogger(__name__)

#: What a caller may give for a mesh: axis sizes, or the mesh itself.
AnyMesh = MeshConfig | Mapping[str, int] | Mesh | None
#: Rows that an expert multiplies while its weights are being read: FLOPs per byte of memory
#: bandwidth are 295 on an H100 (989 TFLOP/s, 3.35 TB/s), and a bfloat16 weight costs one per row.
FREE_ROWS = 256


def inference_config(config: Config, mesh: MeshConfig) -> Config:
    """Return the config with which a model infers on a mesh, checked.

    Dropping tokens would make a text depend on its neighbours; a pipeline has nothing to pass on,
    so its devices take a share of the batch. Streams stay: prompts are read in as many.

    Args:
        config: as the model was trained.
        mesh: where it is to infer.

    Raises:
        UserError: the model cannot be split so.
    """
    flat = without_pipeline(mesh)
    rows = math.prod(getattr(flat, axis) for axis in BATCH_AXES)
    data = config.data.model_copy(update={"document_mask": "none"})
    changes = {"mesh": flat, "data": data, "pipeline": PipelineConfig()}
    inferring = _batched(config, rows * config.exchange.streams).model_copy(update=changes)
    check(inferring)
    return inferring


def decoding_config(config: Config, slots: int) -> Config:
    """Return the config of a decode step: of one token of each slot, in one stream.

    One position cannot be split along the sequence. Rows are so few that one round takes whatever
    the routing is, unless an expert would have to compute more than it costs to read its weights.

    Args:
        config: of the model, as it was trained or as `inference_config` made it.
        slots: sequences that grow at the same time, on the whole mesh.
    """
    changes: dict[str, object] = {"streams": 1}
    if rows_are_free(config, slots):
        moe = config.model.moe
        enough = max(moe.num_experts / moe.top_k, config.exchange.capacity_factor)
        changes["capacity_factor"] = enough
    step = _batched(config, slots)
    return step.model_copy(
        update={
            "sharding": step.sharding.model_copy(update={"sequence": "whole"}),
            "exchange": step.exchange.model_copy(update=changes),
        }
    )


def rows_are_free(config: Config, slots: int) -> bool:
    """Return whether an expert computes a token of every slot while its weights are being read.

    Args:
        config: for its mesh; experts see the slots of their own expert group.
        slots: sequences on the whole mesh.
    """
    return slots // (config.mesh.pipe * config.mesh.data * config.mesh.fsdp) <= FREE_ROWS


def _batched(config: Config, sequences: int) -> Config:
    """Return the config of one pass over `sequences` of which no token is dropped."""
    train = {"accumulation": 1, "global_batch": sequences}
    return config.model_copy(
        update={
            "exchange": config.exchange.model_copy(update={"overflow": "rounds"}),
            "train": config.train.model_copy(update=train),
        }
    )


def without_pipeline(mesh: MeshConfig) -> MeshConfig:
    """Return a mesh of as many devices whose pipe axis is folded into the data axis."""
    if mesh.pipe == 1:
        return mesh
    logger.info(
        "inference has no pipeline: mesh.pipe = %d joins mesh.data = %d", mesh.pipe, mesh.data
    )
    return mesh.model_copy(update={"pipe": 1, "data": mesh.pipe * mesh.data})


def default_mesh(model: ModelConfig, devices: int) -> MeshConfig:
    """Return a mesh for any number of devices: experts over as many as divide them.

    Args:
        model: its experts; without any all devices share the batch.
        devices: what is not of the expert axis is of the data axis.
    """
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
    mesh = default_mesh(config.model, here)
    logger.info("%d devices: mesh.data = %d, mesh.expert = %d", here, mesh.data, mesh.expert)
    return mesh


def mesh_config(asked: MeshConfig | Mapping[str, int] | Mesh) -> MeshConfig:
    """Return axis sizes; raise UserError for axes that there are not."""
    sizes = asked.shape if isinstance(asked, Mesh) else asked
    if isinstance(sizes, MeshConfig):
        return sizes
    if not isinstance(sizes, Mapping):
        raise UserError(f'mesh is {asked!r}: give axis sizes such as {{"expert": 4}}')
    unknown = [axis for axis in sizes if axis not in AXES]
    if unknown:
        raise UserError(f"mesh axes {unknown} are not known: axes are {', '.join(AXES)}")
    wrong = {axis: size for axis, size in sizes.items() if type(size) is not int or size < 1}
    if wrong:
        raise UserError(f"mesh sizes {wrong} must be whole numbers, 1 or more")
    return MeshConfig(**sizes)
