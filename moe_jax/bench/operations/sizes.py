"""The sizes that one device meets in one stream of one layer; and the reference workload's config.

They are counted by `planner/modelled/per_device.py`; what is measured at them is `specs.py`.
"""

from dataclasses import dataclass

from moe_jax.config.model_schema import AttentionConfig, MlpConfig, ModelConfig, MoeConfig
from moe_jax.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    ExchangeConfig,
    MeshConfig,
    OptimizerConfig,
    PrecisionConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)
from moe_jax.planner.modelled.per_device import Share

#: configs/paper_ep16.toml, for benchmarks without a config: an installed package has no configs.
PAPER = Config(
    name="paper_ep16",
    mesh=MeshConfig(expert=16),
    runtime=RuntimeConfig(platform="gpu"),
    model=ModelConfig(
        vocab_size=32000,
        d_model=4096,
        num_layers=16,
        attention=AttentionConfig(heads=32, kv_heads=32, head_dim=128),
        mlp=MlpConfig(d_ff=16384),
        moe=MoeConfig(num_experts=16, top_k=2, d_ff=16384),
    ),
    exchange=ExchangeConfig(transport="all_to_all", streams=8),
    precision=PrecisionConfig(
        params="bfloat16", compute="bfloat16", optimizer_state="bfloat16", master="float32"
    ),
    data=DataConfig(source="synthetic", sequence_length=10000, document_mask="none"),
    optimizer=OptimizerConfig(learning_rate=3e-4),
    schedule=ScheduleConfig(warmup_steps=100),
    train=TrainConfig(steps=1000, global_batch=128, remat="full", loss_chunk=250),
    checkpoint=CheckpointConfig(every=200),
)


@dataclass(frozen=True)
class Sizes:
    """One device's share of one stream of one microbatch.

    Attributes:
        sequences, length: sequences and tokens of each.
        local_experts, rows: experts on the device and the rows that each computes.
        heads, kv_heads, d_ff, vocab: this device's share where `mesh.tensor` splits them.
        logit_rows: tokens whose logits exist at a time.
        routed: tokens that a device routes: of the tensor axis, its own.
    """

    sequences: int
    length: int
    local_experts: int
    rows: int
    heads: int
    kv_heads: int
    d_ff: int
    vocab: int
    logit_rows: int
    routed: int

    @property
    def tokens(self) -> int:
        """Tokens of the device and stream."""
        return self.sequences * self.length


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of a checked config on its own mesh, which need not be present."""
    mesh, moe, attention = config.mesh, config.model.moe, config.model.attention
    share, length = Share(config, "forward"), config.data.sequence_length
    return Sizes(
        sequences=share.stream_tokens // length,
        length=length,
        local_experts=share.local_experts,
        rows=share.computed_rows // share.local_experts,
        heads=attention.heads // mesh.tensor,
        kv_heads=attention.kv_heads // mesh.tensor,
        d_ff=moe.d_ff // mesh.tensor,
        vocab=config.model.vocab_size // mesh.tensor,
        logit_rows=int(share.outside_tokens) // length * min(config.train.loss_chunk, length),
        routed=share.routed_tokens,
    )
