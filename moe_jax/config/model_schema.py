"""The `model` section: what is computed, wherever it runs.

The other sections are in `schema.py`, rules that span fields in `model_rules.py`.
"""

from typing import Annotated, Literal

from pydantic import Field

from moe_jax.config.section import Natural, NonNegativeFloat, Positive, PositiveFloat, Section

Activation = Literal["gelu", "relu", "silu", "swiglu", "geglu"]
ExpertActivation = Literal[Activation, "swiglu_clamped"]
LayerKind = Literal["dense", "moe"]


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
    #: Tokens choose experts; why not the other way round, see `load.py`.
    selection: Literal["token_choice"] = "token_choice"
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
