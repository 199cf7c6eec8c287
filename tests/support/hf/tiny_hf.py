"""A small Mixtral of transformers with a tokenizer, as a Hugging Face directory. No tests here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from support.chat_files import CHATML, write_tokenizer

VOCABULARY = 304


def write_mixtral(directory: Path, **changes: Any) -> Any:
    """Writes a model of random weights, the same every time; returns transformers' model."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "max_position_embeddings": 256,
        # Large enough that greedy text does not repeat one token.
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 4,
        "pad_token_id": 0,
    }
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**settings | changes))
    model.eval().save_pretrained(directory)
    write_tokenizer(directory, chat_template=CHATML)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4]}))
    return model


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Returns transformers' logits [b, s, v]."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.atleast_2d(tokens))).logits.numpy()


def their_greedy(model: Any, tokens: np.ndarray, count: int) -> list[int]:
    """Returns what transformers generates after tokens [s], up to and with an end token."""
    import torch

    with torch.no_grad():
        found = model.generate(
            torch.tensor(tokens)[None],
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=[2, 4],
        )
    return found[0, len(tokens) :].tolist()
