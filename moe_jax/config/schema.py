"""The configuration: frozen, strict models, one section per component.

Field types and single-field ranges live here; rules that span fields live in `rules.py`; reading,
overriding and writing TOML lives in `load.py`. There are no optional values: what is switched off
says so in its value (`0`, `"none"`), so a TOML file mirrors these models completely.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

DType = Literal["float32", "bfloat16"]
Activation = Literal["gelu", "relu", "silu", "swiglu", "geglu"]
ExpertActivation = Literal[Activation, "swiglu_clamped"]
LayerKind = Literal["dense", "moe"]


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


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
    """How the stages of `mesh.pipe` take turns. One virtual stage per device is GPipe; more are the
    interleaved (circular) schedule."""

    #: Parts of a microbatch of `train.accumulation` that follow each other through the stages.
    microbatches: Positive = 1
    #: Groups of consecutive layers on each device; device p has groups p, p + pipe, ...
    virtual_stages: Positive = 1


class RuntimeConfig(Section):
    """Which devices to run on. `cpu` emulates as many devices as the mesh needs."""

    platform: Literal["auto", "cpu", "gpu"] = "auto"
    #: A cluster by name (see `mesh/clusters.toml`), or "detect" to read the running job.
    cluster: str = "detect"


class RopeConfig(Section):
    """Rotary position embedding. `factor` and below apply to the scaling kinds that use them."""

    theta: PositiveFloat = 10000.0
    scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = "none"
    factor: Annotated[float, Field(ge=1)] = 1.0
    original_context: Positive = 4096
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    #: YaRN's ramp begins and ends at whole dimensions, or exactly where its formula says.
    ramp: Literal["whole", "exact"] = "whole"
    #: Multiplies rotated queries and keys (0 = what the paper of the scaling kind derives).
    attention_factor: NonNegativeFloat = 0.0
    #: LongRoPE: divisors of the frequencies [head_dim / 2] for sequences up to `original_context`
    #: and for longer ones, and which of them apply. A model has to stay with one: the keys of
    #: earlier tokens are rotated already.
    short_factors: tuple[PositiveFloat, ...] = ()
    long_factors: tuple[PositiveFloat, ...] = ()
    factors: Literal["short", "long"] = "short"
    #: LongRoPE: `attention_factor` under `factors = "long"` (0 = the same).
    long_attention_factor: NonNegativeFloat = 0.0


class LatentConfig(Section):
    """Multi-head latent attention (DeepSeek-V2): keys and values are rebuilt from a latent vector.

    `attention.head_dim` is the part of queries and keys without positions.
    """

    #: Width of the latent vector of keys and values.
    kv_rank: Positive = 512
    #: Width of the latent vector of queries (0 = queries come straight from the input).
    q_rank: Natural = 0
    #: Width of the rotated part of queries and keys; all heads share the key's.
    rope_head_dim: Positive = 64
    value_head_dim: Positive = 128


class AttentionConfig(Section):
    """Causal attention: grouped-query (`kv_heads == heads` is plain multi-head), or latent."""

    kind: Literal["grouped", "latent"] = "grouped"
    heads: Positive = 8
    kv_heads: Positive = 8
    head_dim: Positive = 32
    #: RMSNorm of queries and keys: of each head, or of all heads together.
    qk_norm: Literal["none", "head", "all_heads"] = "none"
    bias: Literal["none", "qkv", "all"] = "none"
    #: Sliding windows in tokens (0 = full attention), repeated over the layers.
    windows: Annotated[tuple[Natural, ...], Field(min_length=1)] = (0,)
    implementation: Literal["auto", "xla", "cudnn"] = "auto"
    #: The XLA implementation works on this many queries at a time, to bound memory.
    query_block: Positive = 512
    #: Multiplies q kᵀ (0 = one over the square root of the width of a query head).
    scale: NonNegativeFloat = 0.0
    #: Queries, keys and values are clipped to this magnitude (0 = not).
    clip_qkv: NonNegativeFloat = 0.0
    #: A learned logit per head that takes part in the softmax and has no value (attention sink).
    sinks: Literal["none", "per_head"] = "none"
    rope: RopeConfig = RopeConfig()
    latent: LatentConfig = LatentConfig()


class MlpConfig(Section):
    """The MLP of dense layers. Gated activations (`swiglu`, `geglu`) use three matrices."""

    d_ff: Positive = 1024
    activation: Activation = "gelu"
    bias: Literal["none", "all"] = "none"


class RouterConfig(Section):
    """How tokens choose experts, and what keeps the choice balanced."""

    #: `sparsemixer` picks two experts one after the other, each weighted among those whose logit is
    #: within `2 * sparsemixer_jitter` of the best (Liu et al., 2024).
    score: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    sparsemixer_jitter: NonNegativeFloat = 0.01
    #: A learned bias on the logits.
    bias: Literal["none", "per_expert"] = "none"
    #: Combine weights are normalised over all experts (before the selection) or over the
    #: selected ones (after it).
    normalize_over: Literal["all", "selected"] = "selected"
    selection: Literal["token_choice", "expert_choice"] = "token_choice"
    #: Combine weights are multiplied by this (DeepSeek's routed_scaling_factor).
    scale: PositiveFloat = 1.0
    #: Group-limited selection: experts form `groups`; only the best `top_groups` compete.
    groups: Positive = 1
    top_groups: Positive = 1
    group_score: Literal["max", "top2_sum"] = "top2_sum"
    balance_loss: Literal["none", "global", "sequence"] = "global"
    balance_weight: NonNegativeFloat = 0.01
    z_weight: NonNegativeFloat = 0.0
    #: Auxiliary-loss-free balancing: step of the selection bias per training step (0 = off).
    bias_update_rate: NonNegativeFloat = 0.0
    #: The selection bias exists while it is updated, or always (imported weights have one).
    selection_bias: Literal["updated", "always"] = "updated"


class MoeConfig(Section):
    """The Mixture-of-Experts layers."""

    num_experts: Positive = 8
    top_k: Positive = 2
    d_ff: Positive = 512
    #: `swiglu_clamped` is (clip(up) + 1) * gate * sigmoid(alpha * gate), gate clipped from above.
    activation: ExpertActivation = "gelu"
    clamp_alpha: PositiveFloat = 1.702
    clamp_limit: PositiveFloat = 7.0
    bias: Literal["none", "all"] = "none"
    #: Experts that every token visits, computed as one dense MLP of this many times `shared_d_ff`.
    shared_experts: Natural = 0
    #: Hidden size of a shared expert (0 = `d_ff`).
    shared_d_ff: Natural = 0
    #: What the shared experts add is multiplied by sigmoid(x w), or not.
    shared_gate: Literal["none", "sigmoid"] = "none"
    router: RouterConfig = RouterConfig()


class ModelConfig(Section):
    """A decoder-only transformer."""

    vocab_size: Positive = 264
    d_model: Positive = 256
    num_layers: Positive = 4
    #: Kinds of layers, repeated until `num_layers` are filled.
    layers: Annotated[tuple[LayerKind, ...], Field(min_length=1)] = ("moe",)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: PositiveFloat = 1e-6
    tie_embeddings: Literal["tied", "untied"] = "untied"
    head_bias: Literal["none", "per_token"] = "none"
    #: Multiplies embeddings; multiplies what each half of a layer adds; divides logits.
    embedding_scale: PositiveFloat = 1.0
    residual_scale: PositiveFloat = 1.0
    logit_divisor: PositiveFloat = 1.0
    init_std: PositiveFloat = 0.02
    attention: AttentionConfig = AttentionConfig()
    mlp: MlpConfig = MlpConfig()
    moe: MoeConfig = MoeConfig()


class ExchangeConfig(Section):
    """How tokens travel to their experts and back."""

    transport: Literal["auto", "local", "all_gather", "all_to_all"] = "auto"
    #: The device's batch is cut into this many independent slices whose communication hides
    #: behind each other's compute.
    streams: Positive = 1
    #: Rows per (source, expert) in a round, over the mean load.
    capacity_factor: PositiveFloat = 1.25
    overflow: Literal["rounds", "drop"] = "rounds"


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
    steps: Positive = 200
    #: Sequences per step over all devices and microbatches.
    global_batch: Positive = 16
    #: Microbatches whose gradients are averaged before the update.
    accumulation: Positive = 1
    remat: Literal["none", "full", "dispatch"] = "none"
    #: The loss works on this many tokens of each sequence at a time (FLOPs unchanged).
    loss_chunk: Positive = 1024
    validation_every: Natural = 0
    validation_batches: Positive = 8
    #: Consecutive non-finite steps after which the run stops.
    max_skipped: Positive = 10
    #: Steps at which the profiler starts and stops; empty = off.
    profile_steps: Annotated[tuple[Natural, ...], Field(max_length=2)] = ()


class CheckpointConfig(Section):
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
