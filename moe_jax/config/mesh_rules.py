"""Rules that tie the model's sizes to the mesh axes that split it; `rules.py` runs them.

Each rule yields its problems as text: the values, the rule, the remedy.
"""

from collections.abc import Callable, Iterator

from moe_jax.config.model_rules import Problems, divisors_around, either, multiples_around
from moe_jax.config.schema import Config


def _tensor_divides(config: Config) -> Problems:
    size = config.mesh.tensor
    for name, dim in _split_by_tensor(config):
        if dim % size:
            yield (
                f"{name} ({dim}) must be a multiple of mesh.tensor ({size}): set {name} to "
                f"{either(multiples_around(dim, size))}, or mesh.tensor to "
                f"{either(divisors_around(dim, size))}"
            )


def _split_by_tensor(config: Config) -> Iterator[tuple[str, int]]:
    model = config.model
    yield "model.attention.heads", model.attention.heads
    yield "model.vocab_size", model.vocab_size
    if "dense" in model.layers:
        yield "model.mlp.d_ff", model.mlp.d_ff
    if "moe" in model.layers:
        yield "model.moe.d_ff", model.moe.d_ff
    if config.sharding.sequence == "split":
        yield "data.sequence_length", config.data.sequence_length


def _kv_heads_and_tensor(config: Config) -> Problems:
    heads, kv_heads = config.model.attention.heads, config.model.attention.kv_heads
    size = config.mesh.tensor
    if heads % size == 0 and kv_heads % size and size % kv_heads:
        yield (
            f"model.attention.kv_heads ({kv_heads}) and mesh.tensor ({size}): one must be a "
            "multiple of the other, so that each device has whole heads: set mesh.tensor to "
            f"{either(divisors_around(kv_heads, size))}"
        )


def _fsdp_divides(config: Config) -> Problems:
    mesh, d_model = config.mesh, config.model.d_model
    parts, names = mesh.fsdp, f"mesh.fsdp ({mesh.fsdp})"
    if config.sharding.dense == "fsdp_expert":
        parts, names = parts * mesh.expert, f"{names} x mesh.expert ({mesh.expert})"
    if d_model % parts:
        yield (
            f"model.d_model ({d_model}) must be a multiple of {names}, over which "
            f"sharding.dense = {config.sharding.dense} splits parameters: set model.d_model to "
            f"{either(multiples_around(d_model, parts))}, or change the mesh"
        )


def _exchange_needs_split_tokens(config: Config) -> Problems:
    mesh = config.mesh
    if mesh.tensor > 1 and mesh.expert > 1 and config.sharding.sequence == "whole":
        yield (
            f"sharding.sequence = whole with mesh.tensor = {mesh.tensor} and mesh.expert = "
            f"{mesh.expert} would send every token {mesh.tensor} times: set "
            "sharding.sequence=split"
        )


def _pipeline(config: Config) -> Problems:
    pipe, pipeline, train = config.mesh.pipe, config.pipeline, config.train
    parts, groups = pipeline.microbatches, pipeline.virtual_stages
    if pipe == 1:
        if (parts, groups) != (1, 1):
            yield (
                f"pipeline.microbatches = {parts} and pipeline.virtual_stages = {groups} are read "
                "with mesh.pipe > 1 only: set both to 1, and train.accumulation for microbatches "
                "without a pipeline"
            )
        return
    if not train.scan_layers:
        yield (
            f"train.scan_layers = false with mesh.pipe = {pipe}: a stage of a pipeline runs its "
            "layers in a loop; set train.scan_layers=true"
        )
    shards = config.mesh.data * config.mesh.fsdp * config.mesh.expert
    rows = train.global_batch // (train.accumulation * config.exchange.streams * shards)
    if rows % parts:
        yield (
            f"pipeline.microbatches ({parts}) must divide the {rows} sequences of a stream on "
            f"data x fsdp x expert = {shards} shards: set pipeline.microbatches to "
            f"{either(divisors_around(rows, parts))}, or train.global_batch to "
            f"{either(multiples_around(train.global_batch, train.global_batch // rows * parts))}"
        )
    if groups > 1 and parts < pipe:
        yield (
            f"pipeline.virtual_stages = {groups} needs at least mesh.pipe ({pipe}) microbatches, "
            f"pipeline.microbatches is {parts}: set it to {pipe} or more, or "
            "pipeline.virtual_stages=1"
        )
    if groups > 1 and train.remat == "none":
        yield (
            f"pipeline.virtual_stages = {groups} with train.remat = none would keep a copy of "
            "parameters per microbatch: set train.remat=full, dispatch or auto"
        )


MESH_RULES: tuple[Callable[[Config], Problems], ...] = (
    _tensor_divides,
    _kv_heads_and_tensor,
    _fsdp_divides,
    _exchange_needs_split_tokens,
    _pipeline,
)
