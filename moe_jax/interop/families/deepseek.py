"""DeepSeek-V2 and -V3: latent attention, shared experts, first layers dense, groups of experts.

Their rotary positions turn neighbouring dimensions, ours the two halves: rows of the rotated part
are put in another order, `(j 2)` of theirs is `(2 j)` of ours.
"""

from dataclasses import dataclass, replace

from moe_jax.config.model_schema import ModelConfig
from moe_jax.interop.families.common import (
    DEFAULTS,
    EXPERTS,
    EXPERTS_PER_TOKEN,
    GATED,
    LAYER,
    MLP,
    NORMS,
    OUTSIDE_LAYERS,
    RMSNORM,
    SELF_ATTENTION,
    SIZES,
    no_biases,
)
from moe_jax.interop.table.attention import Latent
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.table.layers import FirstDense
from moe_jax.interop.table.rope import LatentRope
from moe_jax.interop.table.setting import Always, Count, Fields, OneOf, Only, Same, Values


def _tensors(rotated: str, halves: str) -> tuple[Tensor, ...]:
    """Return the rows, given how the rotated dimensions lie on their side and on ours."""
    q, q_b = f"{SELF_ATTENTION}.q_proj.weight", f"{SELF_ATTENTION}.q_b_proj.weight"
    kv_a, kv_b = f"{SELF_ATTENTION}.kv_a_proj_with_mqa.weight", f"{SELF_ATTENTION}.kv_b_proj.weight"
    down = "attention.w_q_down_di"
    shared = f"{LAYER}.mlp.shared_experts"
    return (
        *OUTSIDE_LAYERS,
        *NORMS,
        Tensor("attention.w_q_ihm", q, "(h m+p) i -> i h m"),
        Tensor("attention.w_q_rope_ihp", q, f"(h m+{rotated}) i -> i h {halves}"),
        Tensor("attention.w_q_ihm", q_b, "(h m+p) i -> i h m", beside=down),
        Tensor("attention.w_q_rope_ihp", q_b, f"(h m+{rotated}) i -> i h {halves}", beside=down),
        Tensor(down, f"{SELF_ATTENTION}.q_a_proj.weight", "i d -> d i"),
        Tensor("attention.q_norm.scale", f"{SELF_ATTENTION}.q_a_layernorm.weight", "i -> i"),
        Tensor("attention.w_kv_down_dr", kv_a, "r+p d -> d r"),
        Tensor("attention.w_k_rope_dp", kv_a, f"r+{rotated} d -> d {halves}"),
        Tensor("attention.kv_norm.scale", f"{SELF_ATTENTION}.kv_a_layernorm.weight", "r -> r"),
        Tensor("attention.w_k_rhm", kv_b, "(h m+v) r -> r h m"),
        Tensor("attention.w_v_rhv", kv_b, "(h m+v) r -> r h v"),
        Tensor("attention.w_out_hvd", f"{SELF_ATTENTION}.o_proj.weight", "d (h v) -> h v d"),
        *MLP,
        *EXPERTS,
        Tensor("moe.router.bias_e", f"{LAYER}.mlp.gate.e_score_correction_bias", "e -> e"),
        Tensor("moe.shared.w_up_df", f"{shared}.up_proj.weight", "f d -> d f"),
        Tensor("moe.shared.w_gate_df", f"{shared}.gate_proj.weight", "f d -> d f"),
        Tensor("moe.shared.w_down_fd", f"{shared}.down_proj.weight", "d f -> f d"),
    )


@dataclass(frozen=True)
class _V2Groups:
    """`group_limited_greedy` keeps the groups with the best expert; `greedy` has none."""

    keys: tuple[str, ...] = ("topk_method", "n_group", "topk_group")

    def read(self, fields: Fields) -> Values:
        method = fields["topk_method"]
        if method == "greedy":
            return {"moe.router.groups": 1, "moe.router.top_groups": 1}
        if method != "group_limited_greedy":
            raise fields.refuse(
                "topk_method", method, "known are 'greedy' and 'group_limited_greedy'"
            )
        return {
            "moe.router.groups": fields.whole("n_group"),
            "moe.router.top_groups": fields.whole("topk_group"),
            "moe.router.group_score": "max",
        }

    def write(self, model: ModelConfig) -> Values:
        router = model.moe.router
        if router.groups == 1:
            return {"topk_method": "greedy", "n_group": None, "topk_group": None}
        return {
            "topk_method": "group_limited_greedy",
            "n_group": router.groups,
            "topk_group": router.top_groups,
        }


_SETTINGS = (
    *SIZES,
    RMSNORM,
    # Transformers' norms of latent vectors have this, whatever the model's other norms have.
    Only("rms_norm_eps", 1e-6, "norms of latent vectors always have 1e-6"),
    Latent(),
    LatentRope(),
    *no_biases("attention_bias", "mlp_bias"),
    FirstDense(),
    Count("intermediate_size", "mlp.d_ff"),
    Count("moe_intermediate_size", "moe.d_ff"),
    OneOf("hidden_act", ("moe.activation", "mlp.activation"), GATED),
    Count("n_routed_experts", "moe.num_experts", aliases=("num_experts", "num_local_experts")),
    Count("n_shared_experts", "moe.shared_experts", least=0),
    EXPERTS_PER_TOKEN,
    Same("routed_scaling_factor", "moe.router.scale"),
)
_DEFAULTS = DEFAULTS | {
    "rms_norm_eps": 1e-6,
    "num_key_value_heads": None,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
#: Losses of training.
_IGNORED = ("aux_loss_alpha", "seq_aux")

DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    tensors=_tensors("(j 2)", "(2 j)"),
    settings=(
        *_SETTINGS,
        _V2Groups(),
        Always({"moe.router.score": "softmax", "moe.router.normalize_over": "all"}),
        Only("scoring_func", "softmax", "its scores are a softmax"),
        Only("norm_topk_prob", False, "transformers never normalises, the authors' code would"),
    ),
    defaults=_DEFAULTS
    | {
        "max_position_embeddings": 2048,
        "first_k_dense_replace": 0,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.0,
        "topk_method": "greedy",
        "n_group": None,
        "topk_group": None,
        "moe_intermediate_size": 1407,
    },
    ignored=_IGNORED,
)

DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    tensors=_tensors("(j 2)", "(2 j)"),
    settings=(
        *_SETTINGS,
        Count("n_group", "moe.router.groups"),
        Count("topk_group", "moe.router.top_groups"),
        Always({"moe.router.group_score": "top2_sum", "moe.router.selection_bias": "always"}),
        Always({"moe.router.score": "sigmoid"}),
        OneOf(
            "norm_topk_prob", ("moe.router.normalize_over",), ((True, "selected"), (False, "all"))
        ),
        Only("topk_method", "noaux_tc", "it selects with a correction bias"),
        Only("scoring_func", "sigmoid", "its scores are sigmoids"),
    ),
    defaults=_DEFAULTS
    | {
        "max_position_embeddings": 4096,
        "first_k_dense_replace": 3,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "n_group": 8,
        "topk_group": 4,
        "moe_intermediate_size": 2048,
        "rope_interleave": True,
    },
    # A layer that predicts the token after the next stands behind the model's own.
    ignored=(*_IGNORED, "num_nextn_predict_layers", "num_mtp_layers"),
    skipped=(r"model\.layers\.{num_layers}\..*",),
    when={"rope_interleave": True},
)
#: As transformers writes it when the two halves are turned, as ours are.
DEEPSEEK_V3_HALVES = replace(
    DEEPSEEK_V3,
    tensors=_tensors("p", "p"),
    when={"rope_interleave": False},
    name="deepseek_v3_halves",
)
