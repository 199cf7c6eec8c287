"""Everything static that a model's computation needs to know about where it runs."""

import logging
from dataclasses import dataclass, field

from jax.sharding import Mesh, PartitionSpec

from moe_jax.config.schema import Config
from moe_jax.mesh.axes import BATCH_AXES, EXPERT, TENSOR
from moe_jax.moe.exchange import Exchange, make_exchange
from moe_jax.moe.exchange.choose import choose_transport
from moe_jax.moe.exchange.contract import ExchangeSpec, make_spec
from moe_jax.nn.dot_attention import Implementation
from moe_jax.sharding.rules import Placement
from moe_jax.sharding.tensor import TensorAxis

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parallel:
    """The mesh, and the choices that depend on it. Compared by identity, like its mesh."""

    mesh: Mesh
    exchange_spec: ExchangeSpec
    attention: Implementation
    #: Whether tokens attend to their own document only.
    documents: bool
    placement: Placement
    tensor: TensorAxis
    exchange: Exchange = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exchange", make_exchange(self.exchange_spec))

    @property
    def batch_shards(self) -> int:
        """Returns over how many devices a batch is split."""
        shape = dict(self.mesh.shape)
        size = 1
        for axis in BATCH_AXES:
            size *= shape[axis]
        return size

    @property
    def activations(self) -> PartitionSpec:
        """Returns where activations [batch, seq, d_model] between matmuls live."""
        return PartitionSpec(BATCH_AXES, TENSOR if self.tensor.splits_tokens else None)

    @property
    def per_device(self) -> PartitionSpec:
        """Returns the spec of counts with a leading dimension over devices with own tokens."""
        return PartitionSpec((*BATCH_AXES, TENSOR) if self.tensor.splits_tokens else BATCH_AXES)


def resolve_parallel(
    config: Config, mesh: Mesh, *, platform: str, hosts: tuple[int, ...], batch_tokens: int
) -> Parallel:
    """Decides what the config leaves to "auto".

    Args:
        config: a checked config.
        mesh: the mesh to run on.
        platform: "cpu" or "gpu": what the mesh's devices are, present or not.
        hosts: host of each device along the flattened batch axes.
        batch_tokens: tokens of one stream on one batch shard.
    """
    sizes = dict(mesh.shape)
    devices, tensor = sizes[EXPERT], TensorAxis(sizes[TENSOR], config.sharding.sequence)
    transport = choose_transport(config, devices, batch_tokens // tensor.token_shards)
    return Parallel(
        mesh=mesh,
        exchange_spec=make_spec(
            config.exchange, transport, config.model.moe.num_experts, devices, hosts, tensor.size
        ),
        attention=_attention(config, platform),
        documents=config.data.document_mask == "segments",
        placement=Placement(sizes, config.sharding),
        tensor=tensor,
    )


def _attention(config: Config, platform: str) -> Implementation:
    wanted = config.model.attention.implementation
    if wanted == "cudnn" and platform != "gpu":
        raise ValueError(
            "model.attention.implementation='cudnn' needs NVIDIA GPUs, but the mesh has "
            f"{platform} devices: set it to 'auto' or 'xla'"
        )
    if wanted != "auto":
        return wanted
    fits = (
        platform == "gpu"
        and config.data.document_mask == "none"
        and config.precision.compute == "bfloat16"
        and config.model.attention.head_dim <= 128
        and config.data.sequence_length % 2 == 0
    )
    chosen: Implementation = "cudnn" if fits else "xla"
    logger.info("attention.implementation=auto: %s", chosen)
    return chosen
