"""How much arithmetic a token costs, and how many parameters it meets; from the config alone.

Counts what the model needs, not what a program executes: rematerialisation, padded rows and
discarded halves of a causal matmul are no model FLOPs. What a chip can do is
`planner/hardware.py`; how long a step took is `train/report.py`.
"""

from dataclasses import dataclass

from moe_jax.config.schema import Activation, Config, ModelConfig
from moe_jax.model.pattern import LayerSpec, layer_specs
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
        attention = sum over layers of 4 h m c
        training  = 3 (matmul + attention)

    N are the matrix elements that a token is multiplied with: attention projections, the MLP or
    top_k experts plus shared experts plus router of each layer, and the output head; the
    embedding is a lookup. c is the mean number of positions that a causal query sees, at most the
    layer's window: (s + 1) / 2 without one. Attention counts a sequence as one document, also
    where `data.document_mask` keeps packed documents apart.

    Source: the form is that of PaLM, appendix B (Chowdhery et al., 2022), 6 N + 12 L H Q T per
    token of training, and so are the rules that rematerialisation and the embedding do not count.
    That formula takes c = T; we leave out what the causal mask hides, as Megatron-LM's current
    `num_floating_point_operations` does. So a figure here is lower than under PaLM's own form,
    and than those of older Megatron releases, which took c = s.
    """
    model, length = config.model, config.data.sequence_length
    heads = model.attention.heads * model.attention.head_dim
    specs = layer_specs(model)
    visited = sum(_visited_elements(model, spec) for spec in specs)
    context = sum(mean_context(length, spec.window) for spec in specs)
    return Flops(
        matmul=2 * (visited + model.d_model * model.vocab_size), attention=4 * heads * context
    )


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
    return ends + sum(layer_parameters(model, spec) for spec in layer_specs(model))


def active_parameters(config: Config) -> int:
    """Count the parameters that one token meets: all but those of the experts it is not sent to."""
    moe = config.model.moe
    layers = sum(spec.kind == "moe" for spec in layer_specs(config.model))
    idle = moe.num_experts - moe.top_k
    return total_parameters(config) - layers * idle * expert_parameters(config.model)


def _visited_elements(model: ModelConfig, spec: LayerSpec) -> int:
    """Elements of a layer's matrices that each token is multiplied with."""
    d, moe = model.d_model, model.moe
    if spec.kind == "dense":
        return projection_elements(model) + mlp_elements(d, model.mlp.d_ff, model.mlp.activation)
    visits = moe.top_k + moe.shared_experts
    experts = visits * mlp_elements(d, moe.d_ff, moe.activation)
    return projection_elements(model) + d * moe.num_experts + experts


def layer_parameters(model: ModelConfig, spec: LayerSpec) -> int:
    """Count the parameters of one layer, every expert included."""
    d, moe, mlp = model.d_model, model.moe, model.mlp
    common = _attention(model) + 2 * _norm(model)
    if spec.kind == "dense":
        return common + _mlp(d, mlp.d_ff, mlp.activation, mlp.bias)
    shared = 0
    if moe.shared_experts:
        shared = _mlp(d, moe.shared_experts * moe.d_ff, moe.activation, moe.bias)
    return common + d * moe.num_experts + moe.num_experts * expert_parameters(model) + shared


def _attention(model: ModelConfig) -> int:
    config = model.attention
    biases = {"none": 0, "qkv": _qkv_width(model), "all": _qkv_width(model) + model.d_model}
    norms = 2 * config.head_dim if config.qk_norm == "head" else 0
    return projection_elements(model) + biases[config.bias] + norms


def projection_elements(model: ModelConfig) -> int:
    """Count the elements of an attention's four matrices."""
    output = model.attention.heads * model.attention.head_dim
    return model.d_model * (_qkv_width(model) + output)


def _qkv_width(model: ModelConfig) -> int:
    return (model.attention.heads + 2 * model.attention.kv_heads) * model.attention.head_dim


def expert_parameters(model: ModelConfig) -> int:
    """Count the parameters of one expert."""
    return _mlp(model.d_model, model.moe.d_ff, model.moe.activation, model.moe.bias)


def _mlp(d: int, f: int, activation: Activation, bias: str) -> int:
    return mlp_elements(d, f, activation) + (f + d if bias == "all" else 0)


def mlp_elements(d: int, f: int, activation: Activation) -> int:
    """Count the elements of an MLP's two matrices, or three where it is gated."""
    return (3 if is_gated(activation) else 2) * d * f


def _norm(model: ModelConfig) -> int:
    return {"rmsnorm": 1, "layernorm": 2}[model.norm] * model.d_model
