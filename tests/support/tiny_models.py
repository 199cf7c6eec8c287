"""Small random models of a family with a tokenizer, saved by `transformers`. No tests here."""

from pathlib import Path

import torch
import transformers
from support.chat_files import CHATML, write_tokenizer

SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 4,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}
OWN = {
    "olmoe": {"intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2},
    "qwen3": {"intermediate_size": 64, "head_dim": 8},
}


def save_tiny(path: Path, family: str) -> None:
    """Saves a model of this family, and a tokenizer with a chat template."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **OWN[family])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    write_tokenizer(path, chat_template=CHATML)
