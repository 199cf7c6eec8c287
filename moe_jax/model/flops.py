"""How much arithmetic a token costs, and how many parameters it meets; from the config alone.

Counts what the model needs, not what a program executes: rematerialisation, padded rows and
discarded halves of a causal matmul are no model FLOPs. What a chip can do is
`hardware/gpus.py`; how long a step took is `training/reporting/reporter.py`.
"""

from dataclasses import dataclass

from moe_jax.config.model_schema import AttentionConfig, ExpertActivation, ModelConfig
from moe_jax.config.schema import Config
from moe_jax.model.pattern import LayerSpec, layer_sequence
from moe_jax.moe.layer import shared_width
from moe_jax.nn.activation import is_gated

#: Backward computes two products per forward product: by the input and by the weight.
TRAINING_OVER_FORWARD = 3


@dataclass(frozen=True)
class Flops:
    """Model FLOPs of one token; a multiplication and an addition are two.

    Attributes:
        matmul: forward, all products with parameters.
        attention: forward, q kᵀ and the product with v, which have no parameters.
    """

    matmul: int
    attention: float

    @property
    def total_forward(self) -> float:
        """FLOPs of a token, forward."""
        return self.matmul + self.attention

    @property
    def total_training(self) -> float:
        """FLOPs of a token, forward and backward."""
        return TRAINING_OVER_FORWARD * self.total_forward


def flops_per_token(config: Config) -> Flops:
    """Count the model FLOPs of one token, averaged over the positions of a sequence.

        matmul    = 2 N
        attention = sum over layers of 2 h (m + v) c
        training  = 3 (matmul + attention)

    N are the matrix elements that a token is multiplied with: attention projections, the MLP or
    top_k experts plus shared experts plus router of each layer, and the output head; the
    embedding is a lookup. m and v are the widths of a head's keys and values. c is the mean number
    of positions that a causal query sees, at most the layer's window: (s + 1) / 2 without one.
    Attention counts a sequence as one document, also where `data.document_mask` keeps packed
    documents apart.

    Source: the form is that of PaLM, appendix B (Chowdhery et al., 2022), 6 N + 12 L H Q T per
    token of training, and so are the rules that rematerialisation and the embedding do not count.
    That formula takes c = T; we leave out what the causal mask hides, as Megatron-LM's current
    `num_floating_point_operations` does. So a figure here is lower than under PaLM's own form,
    and than those of older Megatron releases, which took c = s.

    Args:
        config: gives the model and the length of a sequence.
    """
    model, length = config.model, config.data.sequence_length
    specs = layer_sequence(model)
    visited = sum(_visited_elements(model, spec) for spec in specs)
    context = sum(mean_context(length, spec.window) for spec in specs)
    return Flops(
        matmul=2 * (visited + model.d_model * model.vocab_size),
        attention=2 * attention_width(model.attention) * context,
    )


def attention_width(attention: AttentionConfig) -> int:
    """Sum over heads of the widths of a query and of a value: multiplications per visible token."""
    return attention.heads * (query_width(attention) + value_width(attention))


def query_width(attention: AttentionConfig) -> int:
    """Width of a head's queries and keys."""
    rotated = attention.latent.rope_head_dim if attention.kind == "latent" else 0
    return attention.head_dim + rotated


def value_width(attention: AttentionConfig) -> int:
    """Width of a head's values."""
    latent = attention.kind == "latent"
    return attention.latent.value_head_dim if latent else attention.head_dim


def mean_context(length: int, window: int) -> float:
    """Positions that a causal query sees, itself included, averaged over `length` queries.

    Args:
        length: tokens of a sequence.
        window: tokens that a query sees at most (0 = all).
    """
    seen = min(window or length, length)
    return (seen * (seen + 1) / 2 + (length - seen) * seen) / length


def total_parameters(config: Config) -> int:
    """Count all parameters, every expert included; `Skeleton.parameter_count` agrees."""
    model = config.model
    tables = 1 if model.tie_embeddings == "tied" else 2
    ends = tables * model.vocab_size * model.d_model + _norm(model)
    ends += model.vocab_size if model.head_bias == "per_token" else 0
    return ends + sum(layer_parameters(model, spec) for spec in layer_sequence(model))


def active_parameters(config: Config) -> int:
    """Count the parameters that one token meets: all but those of the experts it is not sent to."""
    moe = config.model.moe
    layers = sum(spec.kind == "moe" for spec in layer_sequence(config.model))
    idle = moe.num_experts - moe.top_k
    return total_parameters(config) - layers * idle * expert_parameters(config.model)


def _visited_elements(model: ModelConfig, spec: LayerSpec) -> int:
    """Elements of a layer's matrices that each token is multiplied with."""
    d, moe = model.d_model, model.moe
    if spec.kind == "dense":
        return projection_elements(model) + mlp_elements(d, model.mlp.d_ff, model.mlp.activation)
    experts = moe.top_k * mlp_elements(d, moe.d_ff, moe.activation)
    shared = mlp_elements(d, shared_width(moe), moe.activation) + _shared_gate(model)
    return projection_elements(model) + d * moe.num_experts + experts + shared


def layer_parameters(model: ModelConfig, spec: LayerSpec) -> int:
    """Count the parameters of one layer, every expert included."""
    d, moe, mlp = model.d_model, model.moe, model.mlp
    common = _attention(model) + 2 * _norm(model)
    if spec.kind == "dense":
        return common + _mlp(d, mlp.d_ff, mlp.activation, mlp.bias)
    shared = 0
    if moe.shared_experts:
        shared = _mlp(d, shared_width(moe), moe.activation, moe.bias) + _shared_gate(model)
    biases = moe.num_experts if moe.router.bias == "per_expert" else 0
    router = d * moe.num_experts + biases
    return common + router + moe.num_experts * expert_parameters(model) + shared


def _shared_gate(model: ModelConfig) -> int:
    gated = model.moe.shared_experts and model.moe.shared_gate == "sigmoid"
    return model.d_model if gated else 0


def _attention(model: ModelConfig) -> int:
    config = model.attention
    if config.kind == "latent":
        return projection_elements(model) + config.latent.kv_rank + config.latent.q_rank
    biases = {"none": 0, "qkv": _qkv_width(model), "all": _qkv_width(model) + model.d_model}
    all_heads = (config.heads + config.kv_heads) * config.head_dim
    norms = {"none": 0, "head": 2 * config.head_dim, "all_heads": all_heads}
    sinks = config.heads if config.sinks == "per_head" else 0
    return projection_elements(model) + biases[config.bias] + norms[config.qk_norm] + sinks


def projection_elements(model: ModelConfig) -> int:
    """Count the elements of an attention's matrices."""
    if model.attention.kind == "latent":
        return _latent_elements(model)
    output = model.attention.heads * model.attention.head_dim
    return model.d_model * (_qkv_width(model) + output)


def _latent_elements(model: ModelConfig) -> int:
    attention, latent, d = model.attention, model.attention.latent, model.d_model
    into_queries = attention.heads * query_width(attention)
    queries = (latent.q_rank or d) * into_queries + d * latent.q_rank
    down = d * (latent.kv_rank + latent.rope_head_dim)
    up = latent.kv_rank * attention.heads * (attention.head_dim + latent.value_head_dim)
    return queries + down + up + attention.heads * latent.value_head_dim * d


def _qkv_width(model: ModelConfig) -> int:
    return (model.attention.heads + 2 * model.attention.kv_heads) * model.attention.head_dim


def expert_parameters(model: ModelConfig) -> int:
    """Count the parameters of one expert."""
    return _mlp(model.d_model, model.moe.d_ff, model.moe.activation, model.moe.bias)


def _mlp(d: int, f: int, activation: ExpertActivation, bias: str) -> int:
    hidden = 2 * f if is_gated(activation) else f
    return mlp_elements(d, f, activation) + (hidden + d if bias == "all" else 0)


def mlp_elements(d: int, f: int, activation: ExpertActivation) -> int:
    """Count the elements of an MLP's two matrices, or three where it is gated."""
    return (3 if is_gated(activation) else 2) * d * f


def _norm(model: ModelConfig) -> int:
    return {"rmsnorm": 1, "layernorm": 2}[model.norm] * model.d_model
