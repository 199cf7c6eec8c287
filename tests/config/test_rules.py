"""Cross-field rules: each broken one is named with its values and a remedy that works."""

import pytest

from moe_jax.config import Config, ConfigError, check, override

VALID = override(Config(), ["mesh.expert=8"])

CUDNN = (
    "model.attention.implementation=cudnn",
    "precision.compute=bfloat16",
    "data.document_mask=none",
)

SPARSEMIXER = ["model.moe.router.score=sparsemixer", "model.moe.router.normalize_over=all"]
LONGROPE = [
    "model.attention.rope.scaling=longrope",
    "model.attention.rope.original_context=256",
    f"model.attention.rope.short_factors={[1.0] * 16}",
    f"model.attention.rope.long_factors={[4.0] * 16}",
]
BROKEN = {
    "experts": (["model.moe.num_experts=63"], ["63", "(8)", "7 or 9", "56 or 64"]),
    "batch": (["train.global_batch=20"], ["(20)", "multiple of 8", "16 or 24"]),
    "batch_streams": (
        ["exchange.streams=2", "train.accumulation=3", "train.global_batch=16"],
        ["(16)", "48", "accumulation (3)", "streams (2)", "expert 8", "to 48"],
    ),
    "pipeline_without_pipe": (
        ["pipeline.microbatches=4"],
        ["microbatches = 4", "mesh.pipe > 1", "train.accumulation"],
    ),
    "pipeline_microbatches": (
        ["mesh.pipe=2", "mesh.expert=2", "pipeline.microbatches=3"],
        ["microbatches (3)", "the 8 sequences", "2 or 4", "12 or 18"],
    ),
    "virtual_stages_starve": (
        ["mesh.pipe=2", "pipeline.virtual_stages=2", "train.remat=full"],
        ["virtual_stages = 2", "mesh.pipe (2)", "microbatches is 1"],
    ),
    "virtual_stages_keep": (
        ["mesh.pipe=2", "pipeline.virtual_stages=2", "pipeline.microbatches=2"],
        ["train.remat = none", "a copy of parameters", "full or dispatch"],
    ),
    "fsdp": (
        ["mesh.fsdp=3", "train.global_batch=24"],
        ["d_model (256)", "mesh.fsdp (3)", "sharding.dense = fsdp", "255 or 258"],
    ),
    "fsdp_expert": (
        ["mesh.fsdp=64", "train.global_batch=512", "sharding.dense=fsdp_expert"],
        ["d_model (256)", "mesh.fsdp (64) x mesh.expert (8)", "to 512"],
    ),
    "tensor_heads": (
        ["mesh.tensor=3", "model.moe.d_ff=513", "data.sequence_length=255"],
        ["model.attention.heads (8)", "mesh.tensor (3)", "6 or 9", "2 or 4"],
    ),
    "tensor_vocab": (
        ["mesh.tensor=8", "model.vocab_size=260"],
        ["model.vocab_size (260)", "256 or 264"],
    ),
    "tensor_kv_heads": (
        ["model.attention.heads=24", "model.attention.kv_heads=6", "mesh.tensor=4"],
        ["kv_heads (6)", "mesh.tensor (4)", "whole heads", "3 or 6"],
    ),
    "tensor_sequence": (
        ["mesh.tensor=4", "data.sequence_length=250"],
        ["data.sequence_length (250)", "248 or 252"],
    ),
    "sequence_whole": (
        ["mesh.tensor=2", "sharding.sequence=whole"],
        ["mesh.tensor = 2", "mesh.expert = 8", "sharding.sequence=split"],
    ),
    "top_k": (["model.moe.top_k=9"], ["top_k (9)", "num_experts (8)", "8 or less"]),
    "groups": (["model.moe.router.groups=3"], ["groups (3)", "(8)", "2 or 4"]),
    "top_groups": (
        ["model.moe.router.groups=2", "model.moe.router.top_groups=3"],
        ["top_groups (3)", "groups (2)", "2 or less"],
    ),
    "top_k_in_groups": (
        ["model.moe.router.groups=4", "model.moe.top_k=5", "model.moe.router.top_groups=2"],
        ["top_k (5)", "top_groups (2)", "per group (2)", "to 3 or more", "to 4 or less"],
    ),
    "top2_sum": (
        ["model.moe.router.groups=8", "model.moe.router.top_groups=2"],
        ["top2_sum", "there is 1", "group_score=max", "groups to 4"],
    ),
    "kv_heads": (["model.attention.kv_heads=3"], ["heads (8)", "(3)", "2 or 4"]),
    "head_dim": (["model.attention.head_dim=33"], ["(33)", "even", "34"]),
    "llama3": (
        ["model.attention.rope.scaling=llama3", "model.attention.rope.low_freq_factor=4.0"],
        ["low_freq_factor (4.0)", "high_freq_factor (4.0)"],
    ),
    "yarn": (
        ["model.attention.rope.scaling=yarn", "model.attention.rope.beta_fast=1.0"],
        ["beta_slow (1.0)", "beta_fast (1.0)", "1 and 32"],
    ),
    "layers": (
        ["model.num_layers=1", "model.layers=['moe','dense']"],
        ["model.layers has 2", "(1)", "num_layers to 2"],
    ),
    "windows": (
        ["model.num_layers=1", "model.attention.windows=[0,8]"],
        ["windows has 2", "(1)", "num_layers to 2"],
    ),
    "cudnn_head_dim": ([*CUDNN, "model.attention.head_dim=136"], ["(136)", "up to 128", "=xla"]),
    "cudnn_head_dim_8": ([*CUDNN, "model.attention.head_dim=36"], ["(36)", "multiple of 8"]),
    "cudnn_sinks": ([*CUDNN, "model.attention.sinks=per_head"], ["sinks=none", "=xla"]),
    "latent_norm": (
        ["model.attention.kind=latent", "model.attention.qk_norm=head"],
        ["qk_norm = head", "kind = latent", "qk_norm=none"],
    ),
    "latent_heads": (
        ["model.attention.kind=latent", "model.attention.kv_heads=1"],
        ["kv_heads = 1", "kind = latent"],
    ),
    "latent_odd": (
        ["model.attention.kind=latent", "model.attention.latent.rope_head_dim=5"],
        ["latent.rope_head_dim (5)", "even", "6"],
    ),
    "sparsemixer_top_k": (
        [*SPARSEMIXER, "model.moe.top_k=1"],
        ["top_k = 1", "sparsemixer", "top_k=2"],
    ),
    "sparsemixer_normalised": (
        [*SPARSEMIXER, "model.moe.router.normalize_over=selected"],
        ["normalize_over = selected", "normalize_over=all"],
    ),
    "shared_clamped": (
        ["model.moe.shared_experts=1", "model.moe.activation=swiglu_clamped"],
        ["swiglu_clamped", "shared_experts is 1", "activation=swiglu"],
    ),
    "shared_gate_of_none": (
        ["model.moe.shared_gate=sigmoid"],
        ["shared_gate = sigmoid", "shared_experts=1"],
    ),
    "longrope_lengths": (
        [*LONGROPE, "model.attention.rope.long_factors=[1.0]"],
        ["long_factors has 1 entries", "16"],
    ),
    "longrope_beyond": (
        [*LONGROPE, "data.sequence_length=512"],
        ["(512)", "original_context (256)", "factors=long"],
    ),
    "cudnn_odd": ([*CUDNN, "data.sequence_length=255"], ["(255)", "even", "256", "=xla"]),
    "cudnn_mask": ([*CUDNN, "data.document_mask=segments"], ["document_mask=none", "=xla"]),
    "cudnn_dtype": ([*CUDNN, "precision.compute=float32"], ["compute=bfloat16", "=xla"]),
    "wsd": (["schedule.kind=wsd"], ["decay_steps = 0", "decay_steps to 40", "kind=constant"]),
    "wsd_length": (
        ["schedule.kind=wsd", "schedule.decay_steps=190"],
        ["(20)", "(190)", "(200)", "train.steps to 210"],
    ),
    "warmup": (["train.steps=10"], ["warmup_steps (20)", "steps (10)", "to 20"]),
    "profile_one": (["train.profile_steps=[10]"], ["[10]", "[10, 12]"]),
    "profile_order": (["train.profile_steps=[12,12]"], ["[12, 12]", "start < stop"]),
    "profile_end": (["train.profile_steps=[12,900]"], ["[12, 900]", "(200)"]),
    "no_paths": (["data.source=files"], ["data.paths", "empty"]),
    "paths": (["data.paths=['a.txt']"], ["['a.txt']", "stdlib", "source=files", "paths=[]"]),
    "validation_paths": (["data.validation_paths=['a']"], ["validation_paths", "source=files"]),
    "nothing_held_out": (
        ["train.validation_every=5", "data.validation_fraction=0"],
        ["validation_every = 5", "validation_fraction=0.05", "validation_every=0"],
    ),
    "master": (["precision.master=float32"], ["params=bfloat16", "float32", "master=none"]),
}

ALLOWED = {
    "defaults": [],
    "latent": ["model.attention.kind=latent"],
    "sparsemixer": SPARSEMIXER,
    "longrope": LONGROPE,
    "longrope_long": [*LONGROPE, "data.sequence_length=512", "model.attention.rope.factors=long"],
    "sigmoid_raw_scores": [
        "model.moe.router.score=sigmoid",
        "model.moe.router.normalize_over=all",
        "model.moe.router.bias_update_rate=0.001",
    ],
    "groups": ["model.moe.router.groups=4", "model.moe.router.top_groups=2"],
    "one_expert_per_group_by_max": [
        "model.moe.router.groups=8",
        "model.moe.router.top_groups=2",
        "model.moe.router.group_score=max",
    ],
    "dense_model_ignores_expert_count": ["model.layers=['dense']", "model.moe.num_experts=3"],
    "weight_without_balance_loss": ["model.moe.router.balance_loss=none"],
    "cudnn": [*CUDNN, "model.attention.head_dim=128"],
    "files": ["data.source=files", "data.paths=['a.txt']", "data.validation_paths=['b.txt']"],
    "wsd": ["schedule.kind=wsd", "schedule.decay_steps=180"],
    "profile": ["train.profile_steps=[0,200]"],
    "master": ["precision.master=float32", "precision.params=bfloat16"],
}


@pytest.mark.parametrize(("changes", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_rule_names_values_and_remedy(changes, expected):
    with pytest.raises(ConfigError) as caught:
        check(override(VALID, changes))
    assert len(caught.value.problems) == 1
    for part in expected:
        assert part in caught.value.problems[0]


@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED.keys())
def test_consistent_config_passes(changes):
    check(override(VALID, changes), device_count=8)


@pytest.mark.parametrize(
    ("devices", "remedies"),
    [(4, "mesh.expert=4"), (16, "mesh.expert=16 or mesh.data=2"), (6, "mesh.expert=6")],
)
def test_wrong_device_count_suggests_axes_that_fit(devices, remedies):
    with pytest.raises(ConfigError) as caught:
        check(VALID, device_count=devices)
    assert "has 8 devices (pipe 1 x data 1 x fsdp 1 x expert 8 x tensor 1)" in str(caught.value)
    assert f"the job has {devices}: set {remedies}, start the job on 8" in str(caught.value)


def test_device_count_without_a_fitting_axis():
    config = override(Config(), ["mesh.data=2", "mesh.expert=4", "train.global_batch=8"])
    with pytest.raises(ConfigError, match="set the axes so that their product matches"):
        check(config, device_count=3)


def test_all_broken_rules_are_listed():
    changes = ["model.moe.top_k=9", "model.attention.kv_heads=3", "precision.master=float32"]
    with pytest.raises(ConfigError, match="the configuration 'run' cannot run") as caught:
        check(override(VALID, changes), device_count=2)
    assert len(caught.value.problems) == 4
