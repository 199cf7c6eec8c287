"""Settings of heads whose usual value another field tells."""

from dataclasses import dataclass

from moe_jax.config.model_schema import ModelConfig
from moe_jax.interop.table.setting import Fields, Values


@dataclass(frozen=True)
class KvHeads:
    """Key/value heads; as many as query heads if null."""

    keys: tuple[str, ...] = ("num_key_value_heads",)

    def read(self, fields: Fields) -> Values:
        null = fields["num_key_value_heads"] is None
        name = "num_attention_heads" if null else "num_key_value_heads"
        return {"attention.kv_heads": fields.whole(name)}

    def write(self, model: ModelConfig) -> Values:
        return {"num_key_value_heads": model.attention.kv_heads}


@dataclass(frozen=True)
class HeadDim:
    """Width of a head; d_model over heads if null."""

    keys: tuple[str, ...] = ("head_dim",)

    def read(self, fields: Fields) -> Values:
        if fields.get("head_dim") is not None:
            return {"attention.head_dim": fields.whole("head_dim")}
        return {
            "attention.head_dim": fields.whole("hidden_size") // fields.whole("num_attention_heads")
        }

    def write(self, model: ModelConfig) -> Values:
        return {"head_dim": model.attention.head_dim}


@dataclass(frozen=True)
class Latent:
    """Widths of latent attention (DeepSeek); every query head has a key and value of its own."""

    keys: tuple[str, ...] = (
        "kv_lora_rank",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "num_key_value_heads",
        # Sums and copies of others that transformers writes, too.
        "head_dim",
        "qk_head_dim",
    )

    def read(self, fields: Fields) -> Values:
        heads, kv_heads = fields["num_attention_heads"], fields.get("num_key_value_heads")
        if kv_heads not in (None, heads):
            raise fields.refuse(
                "num_key_value_heads", kv_heads, f"latent attention has one per query head: {heads}"
            )
        full = fields["q_lora_rank"] is None
        return {
            "attention.kind": "latent",
            "attention.kv_heads": heads,
            "attention.head_dim": fields.whole("qk_nope_head_dim"),
            "attention.latent.kv_rank": fields.whole("kv_lora_rank"),
            "attention.latent.q_rank": 0 if full else fields.whole("q_lora_rank", least=0),
            "attention.latent.rope_head_dim": fields.whole("qk_rope_head_dim"),
            "attention.latent.value_head_dim": fields.whole("v_head_dim"),
        }

    def write(self, model: ModelConfig) -> Values:
        attention, latent = model.attention, model.attention.latent
        return {
            "kv_lora_rank": latent.kv_rank,
            "q_lora_rank": latent.q_rank or None,
            "qk_nope_head_dim": attention.head_dim,
            "qk_rope_head_dim": latent.rope_head_dim,
            "v_head_dim": latent.value_head_dim,
            "num_key_value_heads": attention.heads,
        }
