"""Models of `transformers` that tests compare with: two or more per family. No tests here.

The fields of the later ones of a family change what the model computes.
"""

from support.hf.hf_models import EXPERTS, Case

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "moe_intermediate_size": 16,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 3,
}
QWEN = {"num_experts": EXPERTS, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 4.0, 5.0, 6.0],
    "short_mscale": 1.2,
    "long_mscale": 1.3,
    "original_max_position_embeddings": 96,
    "factor": 2.0,
}
CASES = (
    Case("plain", "llama", {}),
    Case(
        "llama3",
        "llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 6,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    Case(
        "tied_linear",
        "llama",
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": None,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5},
        },
    ),
    Case("plain", "qwen3", {"head_dim": 12}),
    Case(
        "window",
        "qwen3",
        {
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
    ),
    Case("plain", "mixtral", {"num_local_experts": EXPERTS}),
    Case(
        "window",
        "mixtral",
        {
            "num_local_experts": EXPERTS,
            "sliding_window": 6,
            "num_experts_per_tok": 3,
            "head_dim": 6,
            "tie_word_embeddings": True,
        },
    ),
    Case("plain", "qwen2_moe", {**QWEN, "shared_expert_intermediate_size": 20}),
    Case(
        "mixed",
        "qwen2_moe",
        {
            **QWEN,
            "shared_expert_intermediate_size": 20,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "qkv_bias": False,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 2,
            "num_hidden_layers": 4,
        },
    ),
    Case("plain", "qwen3_moe", {**QWEN, "head_dim": 8}),
    Case(
        "mixed",
        "qwen3_moe",
        {
            **QWEN,
            "head_dim": 12,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "use_sliding_window": True,
            "sliding_window": 7,
            "rope_parameters": YARN,
            "attention_bias": True,
        },
    ),
    Case("plain", "olmoe", {"num_experts": EXPERTS, "num_experts_per_tok": 3}),
    Case(
        "clipped",
        "olmoe",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 3,
            "clip_qkv": 0.8,
            "norm_topk_prob": True,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
    ),
    Case("plain", "granitemoe", {"num_local_experts": EXPERTS}),
    Case(
        "scaled",
        "granitemoe",
        {
            "num_local_experts": EXPERTS,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
            "attention_multiplier": 0.2,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": YARN | {"attention_factor": 1.3},
        },
    ),
    Case("plain", "phimoe", {"num_local_experts": EXPERTS}),
    Case(
        "longrope",
        "phimoe",
        {
            "num_local_experts": EXPERTS,
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.2,
            "sliding_window": 6,
            "rope_parameters": LONGROPE,
        },
    ),
    Case("plain", "deepseek_v2", {**LATENT}),
    Case(
        "groups_yarn",
        "deepseek_v2",
        {
            **LATENT,
            "q_lora_rank": None,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.7,
            "rope_parameters": YARN | {"mscale": 0.9, "mscale_all_dim": 0.6},
        },
    ),
    Case(
        "plain",
        "deepseek_v3",
        {
            **LATENT,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
        },
    ),
    Case(
        "yarn",
        "deepseek_v3",
        {
            **LATENT,
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
            "rope_interleave": False,
            "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    Case(
        "plain",
        "gpt_oss",
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 3,
            "head_dim": 8,
            "sliding_window": 5,
        },
    ),
    Case(
        "full",
        "gpt_oss",
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "head_dim": 6,
            "sliding_window": 5,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "swiglu_limit": 0.5,
            "swiglu_alpha": 1.1,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        },
    ),
)
#: The last case of each family.
SMOKE = tuple({case.model_type: case for case in CASES}.values())
