"""The sizes that one device meets in one stream of one layer; and the reference workload's config.

What is measured at these sizes is `specs.py`.
"""

import math
from dataclasses import dataclass

from moe_jax.axes import BATCH_AXES
from moe_jax.config.model_schema import AttentionConfig, MlpConfig, ModelConfig, MoeConfig
from moe_jax.config.schema import (
    Config,
    DataConfig,
    ExchangeConfig,
    MeshConfig,
    PrecisionConfig,
    TrainConfig,
)
from moe_jax.data.batch import batch_shape
from moe_jax.moe.exchange.contract import capacity

#: The sizes of configs/paper_ep16.toml, for benchmarks without a config.
PAPER = Config(
    name="paper_ep16",
    mesh=MeshConfig(expert=16),
    model=ModelConfig(
        vocab_size=32000,
        d_model=4096,
        num_layers=16,
        attention=AttentionConfig(heads=32, kv_heads=32, head_dim=128),
        mlp=MlpConfig(d_ff=16384),
        moe=MoeConfig(num_experts=16, top_k=2, d_ff=16384),
    ),
    exchange=ExchangeConfig(transport="all_to_all", streams=8),
    precision=PrecisionConfig(params="bfloat16", compute="bfloat16"),
    data=DataConfig(source="synthetic", sequence_length=10000, document_mask="none"),
    train=TrainConfig(global_batch=128, loss_chunk=250, remat="full"),
)


@dataclass(frozen=True)
class Sizes:
    """One device's share of one stream of one microbatch.

    Attributes:
        sequences, length: sequences and tokens of each.
        local_experts, rows: experts on the device and rows that each computes in a round.
        capacity: rows per (source, expert) in a round.
        heads, kv_heads, d_ff, vocab: this device's share where `mesh.tensor` splits them.
        logit_rows: tokens whose logits exist at a time.
    """

    sequences: int
    length: int
    local_experts: int
    rows: int
    capacity: int
    heads: int
    kv_heads: int
    d_ff: int
    vocab: int
    logit_rows: int

    @property
    def tokens(self) -> int:
        """Return tokens of the device and stream."""
        return self.sequences * self.length


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of a checked config on its own mesh, which need not be present."""
    mesh, moe, attention = config.mesh, config.model.moe, config.model.attention
    _, streams, batch, length = batch_shape(config)
    sequences = batch // math.prod(getattr(mesh, axis) for axis in BATCH_AXES)
    tokens = sequences * length
    rows = capacity(
        tokens, moe.top_k, moe.num_experts, config.exchange.capacity_factor, mesh.expert
    )
    return Sizes(
        sequences=sequences,
        length=length,
        local_experts=moe.num_experts // mesh.expert,
        rows=rows * mesh.expert,
        capacity=rows,
        heads=attention.heads // mesh.tensor,
        kv_heads=attention.kv_heads // mesh.tensor,
        d_ff=moe.d_ff // mesh.tensor,
        vocab=config.model.vocab_size // mesh.tensor,
        logit_rows=streams * sequences * min(config.train.loss_chunk, length),
    )
