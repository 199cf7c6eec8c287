"""What keeping a part of a layer takes, and what it spares backward; counted from the config.

Per token, of the experts per row. What is kept by which name is `kept.py`; bytes and seconds of a
device are the business of who has counts and rates.
"""

from dataclasses import dataclass

from moe_jax.config.model_schema import ExpertActivation, ModelConfig
from moe_jax.config.schema import Config
from moe_jax.model.cache import entry_shapes
from moe_jax.model.flops import (
    attention_width,
    flops_per_token,
    mean_context,
    mlp_elements,
    projection_elements,
    query_width,
    value_width,
)
from moe_jax.model.pattern import LayerSpec, layer_sequence
from moe_jax.moe.layer import shared_width
from moe_jax.nn.activation import is_gated


@dataclass(frozen=True)
class Spared:
    """Of one name and one layer, for each token or, of "dispatch" and "experts", for each row."""

    #: That are kept.
    values: int
    #: Of matrices, with which nothing is multiplied again.
    elements: int = 0
    #: Multiplied per visible token by attention itself, which is not run again.
    attention_width: int = 0

    def flops(self, context: float) -> float:
        """Return what is not computed again, for a query that sees `context` tokens."""
        return 2 * (self.elements + self.attention_width * context)


#: Names whose values are rows, of which a token has several.
OF_ROWS = ("dispatch", "experts")


def spared(model: ModelConfig, spec: LayerSpec) -> dict[str, Spared]:
    """Return what each name keeps and spares in a layer, without those of which it has nothing.

    Of a kept "dispatch" it is the sending that is spared.

    Args:
        model: of the layer.
        spec: the kind of layer.
    """
    attention, d = model.attention, model.d_model
    result = attention.heads * value_width(attention)
    queries = attention.heads * query_width(attention)
    entry = sum(shape.heads * shape.width for shape in entry_shapes(attention, 1))
    found = {
        "attention": Spared(result, attention_width=attention_width(attention)),
        "residual": Spared(d, result * d),
        "qkv": Spared(queries + entry, _into_attention(model)),
    }
    moe = model.moe
    if spec.kind == "dense":
        found["mlp"] = _hidden(d, model.mlp.d_ff, model.mlp.activation)
        return found
    found["dispatch"] = Spared(d)
    found["experts"] = _hidden(d, moe.d_ff, moe.activation)
    if moe.shared_experts:
        found["mlp"] = _hidden(d, shared_width(moe), moe.activation)
    return found


def _hidden(d: int, f: int, activation: ExpertActivation) -> Spared:
    return Spared(f * (1 + is_gated(activation)), mlp_elements(d, f, activation) - d * f)


def _into_attention(model: ModelConfig) -> int:
    """Return the elements that make what is kept as "qkv": latent vectors are kept unexpanded."""
    attention = model.attention
    output = attention.heads * value_width(attention) * model.d_model
    expanding = 0
    if attention.kind == "latent":
        latent = attention.latent
        expanding = latent.kv_rank * attention.heads * (attention.head_dim + latent.value_head_dim)
    return projection_elements(model) - output - expanding


def spared_share(config: Config, names: tuple[str, ...]) -> float:
    """Return the share of the layers' forward FLOPs that backward does not compute again.

    Args:
        config: gives the model and the length of a sequence.
        names: what is kept.
    """
    model, length = config.model, config.data.sequence_length
    done = sum(
        of.flops(mean_context(length, spec.window)) * (model.moe.top_k if name in OF_ROWS else 1)
        for spec in layer_sequence(model)
        for name, of in spared(model, spec).items()
        if name in names
    )
    head = 2 * model.d_model * model.vocab_size
    return done / (flops_per_token(config).total_forward - head)
