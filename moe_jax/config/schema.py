"""The configuration: frozen, strict models, one section per component.

Field types and single-field ranges live here, those of the model in `model_schema.py`; rules that
span fields live in `rules.py`; reading, overriding and writing TOML lives in `load.py`. There are
no optional values: what is switched off says so in its value (`0`, `"none"`), so a
resolved TOML file mirrors these models completely.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.remat import written_in_order
from moe_jax.config.section import Natural, NonNegativeFloat, Positive, PositiveFloat, Section

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
DType = Literal["float32", "bfloat16"]
Remat = Annotated[str, AfterValidator(written_in_order)]


class MeshConfig(Section):
    """Size of each mesh axis; their product is the number of devices."""

    pipe: Positive = 1
    data: Positive = 1
    fsdp: Positive = 1
    expert: Positive = 1
    tensor: Positive = 1


class ShardingConfig(Section):
    """What is split beyond the mesh axes that compute with it."""

    #: Where optimiser state lives: with its parameter, or also over the batch axes that hold
    #: copies of the parameter (ZeRO).
    optimizer: Literal["parameter", "zero"] = "zero"
    #: What splits dense parameters: the fsdp axis, or the expert axis as well.
    dense: Literal["fsdp", "fsdp_expert"] = "fsdp"
    #: Activations between the matmuls of a layer are split along the sequence over the tensor
    #: axis, or whole on each of its devices.
    sequence: Literal["split", "whole"] = "split"


class PipelineConfig(Section):
    """How the stages of `mesh.pipe` take turns.

    One virtual stage per device is GPipe; more are the interleaved (circular) schedule.
    """

    #: Parts of a microbatch of `train.accumulation` that follow each other through the stages.
    microbatches: Positive = 1
    #: Groups of consecutive layers on each device; device p has groups p, p + pipe, ...
    virtual_stages: Positive = 1


class RuntimeConfig(Section):
    """Which devices to run on. `cpu` emulates as many devices as the mesh needs."""

    platform: Literal["auto", "cpu", "gpu"] = "auto"
    #: A cluster by name (see `hardware/clusters.toml`), or "detect" to read the running job.
    cluster: str = "detect"


#: The files of `moe/exchange` that are transports, by their `name`.
TransportName = Literal["local", "all_gather", "all_to_all"]


class ExchangeConfig(Section):
    """How tokens travel to their experts and back."""

    transport: Literal["auto", TransportName] = "auto"
    #: The device's batch is cut into this many independent slices whose communication hides
    #: behind each other's compute.
    streams: Positive = 1
    #: Places per (source, destination) in the main round, over the mean load.
    capacity_factor: PositiveFloat = 1.25
    #: What becomes of tokens beyond them: further rounds, until everybody is served, or nothing.
    overflow: Literal["rounds", "drop"] = "rounds"
    #: Size of a further round, of the main round's.
    round_fraction: PositiveFraction = 0.125


class PrecisionConfig(Section):
    """Dtypes. Normalisation, routing decisions and the loss are always computed in float32."""

    params: DType = "float32"
    compute: DType = "float32"
    router: DType = "float32"
    optimizer_state: DType = "float32"
    #: Keep a float32 copy of lower-precision parameters in the optimiser.
    master: Literal["none", "float32"] = "none"


class DataConfig(Section):
    """Where text comes from and how it becomes sequences."""

    source: Literal["stdlib", "files", "synthetic"] = "stdlib"
    #: For `files`: .txt, .jsonl and .parquet files, or directories of them.
    paths: tuple[str, ...] = ()
    #: Held-out files; when empty, `validation_fraction` of the documents is held out.
    validation_paths: tuple[str, ...] = ()
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    #: The field of .jsonl and column of .parquet files that holds the text.
    text_field: str = "text"
    #: "bytes", or the path of a Hugging Face tokenizer.json.
    tokenizer: str = "bytes"
    sequence_length: Positive = 256
    #: Tokens attend to their own document only, or to everything packed before them.
    document_mask: Literal["segments", "none"] = "segments"
    #: Batches prepared in the background.
    prefetch: Natural = 2


class OptimizerConfig(Section):
    """How gradients change parameters: AdamW, or Muon for the matrices inside layers."""

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 3e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    #: Global gradient norm above which gradients are scaled down (0 = off).
    clip_norm: NonNegativeFloat = 1.0


class ScheduleConfig(Section):
    """Learning rate over steps: linear warm-up, then `kind`."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: Natural = 20
    #: Steps of the final linear decay of `wsd`.
    decay_steps: Natural = 0
    #: Final learning rate over the peak.
    final_fraction: Fraction = 0.1


class TrainConfig(Section):
    """How long a run is, how a step is cut into pieces, and how often it is looked at."""

    steps: Positive = 200
    #: Sequences per step over all devices and microbatches.
    global_batch: Positive = 16
    #: Microbatches whose gradients are averaged before the update.
    accumulation: Positive = 1
    #: What a layer keeps for backward, which computes all else again: everything ("none"), nothing
    #: but its input ("full"), or names of `remat.py` such as "attention+dispatch". "auto" takes the
    #: most valuable set that fits the devices' memory, found by compiling.
    remat: Remat = "none"
    #: Layers are one loop of the program. Otherwise each is compiled by itself, which takes longer,
    #: and steps are faster: weights and gradients are not copied out of stacks and into them.
    scan_layers: bool = True
    #: The loss works on this many tokens of each sequence at a time (FLOPs unchanged).
    loss_chunk: Positive = 1024
    validation_every: Natural = 0
    validation_batches: Positive = 8
    #: Consecutive non-finite steps after which the run stops.
    max_skipped: Positive = 10
    #: Steps at which the profiler starts and stops; empty = off.
    profile_steps: Annotated[tuple[Natural, ...], Field(max_length=2)] = ()


class CheckpointConfig(Section):
    """When checkpoints are written, how many stay, and what is checked before one is read."""

    #: Steps between checkpoints (0 = only at the end).
    every: Natural = 0
    #: Newest checkpoints that are kept.
    keep: Positive = 3
    mode: Literal["async", "sync"] = "async"
    #: What is checked before a restore: file sizes, or sizes and content digests.
    verify: Literal["sizes", "digests"] = "digests"


class MetricsConfig(Section):
    """Where metrics go besides the terminal and `metrics.jsonl`."""

    log_every: Positive = 1
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    project: str = "moe-jax"


class Config(Section):
    """One run, complete."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    mesh: MeshConfig = MeshConfig()
    sharding: ShardingConfig = ShardingConfig()
    pipeline: PipelineConfig = PipelineConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    model: ModelConfig = ModelConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    precision: PrecisionConfig = PrecisionConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()
