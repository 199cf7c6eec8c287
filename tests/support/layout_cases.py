"""Layouts of a tiny model: how the mesh's axes combine. No tests here."""

#: Sizes that every axis up to 4 divides; what differs from `model_cases.TINY`.
DIVISIBLE = (
    "model.vocab_size=32",
    "model.num_layers=4",
    "model.attention.heads=4",
    "model.attention.kv_heads=2",
)
#: Dense and MoE layers mixed, gated, biases everywhere, one leading layer of its own.
MIXED = (
    "model.num_layers=5",
    'model.layers=["dense", "moe", "dense", "moe", "moe"]',
    "model.attention.windows=[3, 0, 0, 0, 0]",
    "model.attention.bias=all",
    "model.attention.qk_norm=head",
    "model.mlp.activation=swiglu",
    "model.mlp.bias=all",
    "model.moe.activation=swiglu",
    "model.moe.bias=all",
    "model.moe.shared_experts=1",
    "model.moe.router.balance_loss=sequence",
    "model.tie_embeddings=tied",
)
#: A unit of two layers four times, after one of its own.
REPEATED = (
    *MIXED[3:],
    "model.num_layers=9",
    'model.layers=["dense", "moe", "dense", "moe", "dense", "moe", "dense", "moe", "dense"]',
)
#: What imported families add to a layer.
NORMED_TOGETHER = (
    "model.attention.qk_norm=all_heads",
    "model.attention.clip_qkv=1.0",
    "model.attention.scale=0.4",
    "model.attention.sinks=per_head",
    "model.attention.windows=[0, 3]",
    "model.moe.router.bias=per_expert",
    "model.moe.activation=swiglu_clamped",
    "model.moe.clamp_limit=0.5",
    "model.moe.bias=all",
    "model.embedding_scale=3.0",
    "model.residual_scale=0.7",
    "model.logit_divisor=2.0",
    "model.head_bias=per_token",
)
LATENT = (
    "model.attention.kind=latent",
    "model.attention.kv_heads=4",
    "model.attention.latent.kv_rank=6",
    "model.attention.latent.q_rank=5",
    "model.attention.latent.rope_head_dim=4",
    "model.attention.latent.value_head_dim=10",
    "model.moe.shared_experts=2",
    "model.moe.shared_d_ff=4",
    "model.moe.shared_gate=sigmoid",
    "model.moe.router.score=sigmoid",
    "model.moe.router.groups=4",
    "model.moe.router.top_groups=2",
    "model.moe.router.selection_bias=always",
)
OVERFLOWING = "exchange.capacity_factor=0.75"


def pipeline(stages: int, microbatches: int, rounds: int = 1) -> tuple[str, ...]:
    return (
        f"mesh.pipe={stages}",
        f"pipeline.microbatches={microbatches}",
        f"pipeline.virtual_stages={rounds}",
    )


#: Name -> (what changes the model, what changes the layout).
ON_8: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data 8": ((), ("mesh.data=8",)),
    "fsdp 8": ((), ("mesh.fsdp=8",)),
    "expert 8": ((), ("mesh.expert=8", OVERFLOWING)),
    "tensor 4": ((), ("mesh.tensor=4",)),
    "pipe 4": ((), (*pipeline(4, 4), "train.remat=full")),
    "tensor 4, heads normed together": (NORMED_TOGETHER, ("mesh.tensor=4",)),
    "expert 2, tensor 2, fsdp 2, heads normed together": (
        NORMED_TOGETHER,
        ("mesh.expert=2", "mesh.tensor=2", "mesh.fsdp=2"),
    ),
    "expert 2, tensor 2, fsdp 2, latent": (
        LATENT,
        ("mesh.expert=2", "mesh.tensor=2", "mesh.fsdp=2", OVERFLOWING),
    ),
    "pipe 2, tensor 2, whole, latent": (
        (
            *LATENT,
            "model.moe.router.score=sparsemixer",
            "model.moe.router.groups=1",
            "model.moe.router.top_groups=1",
            "model.moe.router.selection_bias=updated",
            "model.moe.router.normalize_over=all",
        ),
        (*pipeline(2, 2), "mesh.tensor=2", "sharding.sequence=whole"),
    ),
    "data 2, expert 4": ((), ("mesh.data=2", "mesh.expert=4", "exchange.streams=2")),
    "fsdp 2, expert 4": ((), ("mesh.fsdp=2", "mesh.expert=4", OVERFLOWING)),
    "expert 4, tensor 2": ((), ("mesh.expert=4", "mesh.tensor=2", OVERFLOWING)),
    "pipe 2, expert 4": ((), (*pipeline(2, 2), "mesh.expert=4", OVERFLOWING)),
    "pipe 2, tensor 4": ((), (*pipeline(2, 4), "mesh.tensor=4")),
    "data 4, tensor 2": ((), ("mesh.data=4", "mesh.tensor=2")),
    "fsdp 4, tensor 2": ((), ("mesh.fsdp=4", "mesh.tensor=2", "train.remat=full")),
    "data 2, fsdp 4": ((), ("mesh.data=2", "mesh.fsdp=4", "exchange.streams=2")),
    "pipe 2, fsdp 4": ((), (*pipeline(2, 4), "mesh.fsdp=4")),
    "pipe 2, data 4": ((), (*pipeline(2, 2), "mesh.data=4")),
    "pipe 2, expert 2, tensor 2": (
        (),
        (*pipeline(2, 2), "mesh.expert=2", "mesh.tensor=2", OVERFLOWING, "exchange.streams=2"),
    ),
    "fsdp 2, expert 2, tensor 2": (
        (),
        ("mesh.fsdp=2", "mesh.expert=2", "mesh.tensor=2", "train.remat=dispatch", OVERFLOWING),
    ),
    "dense parameters over fsdp x expert": (
        (),
        ("mesh.fsdp=2", "mesh.expert=4", "sharding.dense=fsdp_expert", "exchange.streams=2"),
    ),
    "the same, attention kept": (
        (),
        (
            "mesh.fsdp=2",
            "mesh.expert=4",
            "sharding.dense=fsdp_expert",
            "train.remat=attention+experts+mlp",
            OVERFLOWING,
        ),
    ),
    "tensor 2 without sequence parallelism": (
        (),
        ("mesh.fsdp=2", "mesh.data=2", "mesh.tensor=2", "sharding.sequence=whole"),
    ),
    "one key/value head for two devices": (
        ("model.attention.kv_heads=1",),
        ("mesh.expert=4", "mesh.tensor=2"),
    ),
    "experts gathered to their tokens": (
        (),
        ("mesh.expert=4", "mesh.tensor=2", "exchange.transport=local"),
    ),
    "tokens gathered to their experts": (
        (),
        ("mesh.expert=4", "mesh.tensor=2", "exchange.transport=all_gather", OVERFLOWING),
    ),
    "layers that follow each other": (
        (),
        ("mesh.fsdp=2", "mesh.expert=4", "train.scan_layers=false", "train.remat=full"),
    ),
    "interleaved": ((), (*pipeline(2, 4, 2), "mesh.expert=4", "train.remat=full")),
    "uneven layers": (("model.num_layers=3",), (*pipeline(2, 4), "mesh.expert=4", OVERFLOWING)),
    "interleaved, uneven, everything split": (
        ("model.num_layers=5",),
        (
            *pipeline(2, 4, 2),
            "mesh.fsdp=2",
            "mesh.expert=2",
            "sharding.dense=fsdp_expert",
            "train.remat=attention+residual+dispatch+experts+qkv+mlp",
            "exchange.streams=2",
        ),
    ),
    "mixed layers, expert 2, tensor 2, fsdp 2": (
        MIXED,
        ("mesh.fsdp=2", "mesh.expert=2", "mesh.tensor=2", OVERFLOWING, "train.remat=full"),
    ),
    "mixed layers behind a leading one, pipe 2, expert 2, tensor 2": (
        REPEATED,
        (*pipeline(2, 2), "mesh.expert=2", "mesh.tensor=2", OVERFLOWING),
    ),
}

ON_16: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "expert 8, tensor 2": ((), ("mesh.expert=8", "mesh.tensor=2", OVERFLOWING)),
    "every axis": (
        (),
        (*pipeline(2, 2), "mesh.fsdp=2", "mesh.expert=2", "mesh.tensor=2", "train.remat=full"),
    ),
    "data 2, every other axis but pipe": (
        (),
        ("mesh.data=2", "mesh.fsdp=2", "mesh.expert=2", "mesh.tensor=2", OVERFLOWING),
    ),
}
