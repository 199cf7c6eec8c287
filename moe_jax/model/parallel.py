"""Everything static that a model's computation needs to know about where it runs."""

from dataclasses import dataclass, field
from typing import Any

from jax.sharding import Mesh, PartitionSpec

from moe_jax.axes import AXES, BATCH_AXES, EXPERT, FSDP, PIPE, TENSOR
from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.model.attention_choice import attention_implementation, capability_of
from moe_jax.model.pattern import layer_runs
from moe_jax.model.pipeline import Schedule, pipelined
from moe_jax.moe.exchange import Exchange
from moe_jax.moe.exchange.choose import choose_spec
from moe_jax.moe.exchange.contract import ExchangeSpec
from moe_jax.moe.grouped.choose import Chosen, choose
from moe_jax.nn.dot_attention import Implementation
from moe_jax.sharding.rules import Placement
from moe_jax.sharding.tensor import TensorAxis


@dataclass(frozen=True)
class Parallel:
    """The mesh, and the choices that depend on it. Compared by identity, like its mesh."""

    mesh: Mesh
    exchange_spec: ExchangeSpec
    attention: Implementation
    #: What computes the experts' grouped matmuls: an `implementation` of `moe/grouped/`.
    grouped: Chosen
    #: Whether tokens attend to their own document only.
    documents: bool
    placement: Placement
    tensor: TensorAxis
    #: Parts of a stream that follow each other through the stages of the pipe axis.
    microbatches: int
    #: Whether layers are a loop of the program, where they are not decode's.
    scan_layers: bool
    exchange: Exchange = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exchange", Exchange(self.exchange_spec))

    @property
    def batch_shards(self) -> int:
        """Over how many devices a batch is split."""
        shape = dict(self.mesh.shape)
        size = 1
        for axis in BATCH_AXES:
            size *= shape[axis]
        return size

    @property
    def activations(self) -> PartitionSpec:
        """Where activations [batch, seq, d_model] are between matmuls."""
        return PartitionSpec(BATCH_AXES, TENSOR if self.tensor.splits_tokens else None)

    def per_device(self, *, of_a_stage: bool = False) -> PartitionSpec:
        """Return the spec of counts with a leading dimension over devices with own tokens.

        Args:
            of_a_stage: without the pipe axis.
        """
        axes = BATCH_AXES[1:] if of_a_stage else BATCH_AXES
        assert BATCH_AXES[0] == PIPE
        return PartitionSpec((*axes, TENSOR) if self.tensor.splits_tokens else axes)

    def schedule(self, repeats: int) -> Schedule | None:
        """Return how a stack of so many repetitions is pipelined; None where it is scanned."""
        placement = self.placement
        return pipelined(
            placement.sizes[PIPE], placement.virtual_stages, self.microbatches, repeats
        )


def resolve_parallel(
    config: Config, mesh: Mesh, *, platform: str, hosts: tuple[int, ...], batch_tokens: int
) -> Parallel:
    """Decide what the config leaves to "auto".

    Args:
        config: a checked config.
        mesh: the mesh to run on.
        platform: "cpu" or "gpu": what the mesh's devices are, present or not.
        hosts: host of each device along the flattened batch axes.
        batch_tokens: tokens of one stream on one batch shard.
    """
    sizes = dict(mesh.shape)
    devices, tensor = sizes[EXPERT], TensorAxis(sizes[TENSOR], config.sharding.sequence)
    placement = Placement(sizes, config.sharding, config.pipeline.virtual_stages)
    check_stages(config.model, placement)
    microbatches = config.pipeline.microbatches
    tokens = batch_tokens * sizes[PIPE] // (microbatches * tensor.token_shards)
    return Parallel(
        mesh=mesh,
        exchange_spec=choose_spec(config, devices, tokens, hosts),
        attention=attention_implementation(config, platform, capability_of(mesh)),
        grouped=grouped_implementation(config, mesh.devices.flat[0]),
        documents=config.data.document_mask == "segments",
        placement=placement,
        tensor=tensor,
        microbatches=microbatches,
        scan_layers=config.train.scan_layers,
    )


def check_stages(model: ModelConfig, placement: Placement) -> None:
    """Raise UserError unless the pipe axis can be filled with the model's repeated layers."""
    *_, repeated = layer_runs(model)
    groups = placement.sizes[PIPE] * placement.virtual_stages
    if placement.sizes[PIPE] == 1:
        return
    if repeated.repeats < groups:
        raise UserError(
            f"mesh.pipe ({placement.sizes[PIPE]}) x pipeline.virtual_stages "
            f"({placement.virtual_stages}) = {groups} groups need as many repetitions of the "
            f"model's layer pattern, it has {repeated.repeats} of {len(repeated.unit)} layers: use "
            "fewer groups or more layers"
        )
    parts = placement.sizes[PIPE] * placement.sizes[FSDP]
    if placement.config.dense == "fsdp_expert":
        parts *= placement.sizes[EXPERT]
    by_parts = [run.repeats for run in layer_runs(model) if not placement.in_order(run.repeats)]
    if by_parts and model.d_model % parts:
        raise UserError(
            f"stacks of {' and '.join(map(str, by_parts))} layers in {groups} groups on mesh.pipe "
            f"= {placement.sizes[PIPE]} are stored by parts of d_model ({model.d_model}), which "
            f"must be a multiple of {parts}: change mesh.fsdp or mesh.pipe, or use one virtual "
            "stage, a multiple of mesh.pipe layers and no leading ones"
        )


def placement_of(config: Config) -> Placement:
    """Return where the parameters of a config live on its mesh."""
    sizes = {axis: getattr(config.mesh, axis) for axis in AXES}
    return Placement(sizes, config.sharding, config.pipeline.virtual_stages)


def grouped_implementation(config: Config, device: Any) -> Chosen:
    """Return how the experts' grouped matmuls are computed on a device.

    Args:
        config: a checked config.
        device: of the mesh. One that is only described, for a compile for GPUs that are not there,
            knows its compute capability as well as one that is here.
    """
    moe = config.model.moe
    dims = (config.model.d_model, moe.d_ff // config.mesh.tensor)
    return choose("auto", config.precision.compute, dims, device)
