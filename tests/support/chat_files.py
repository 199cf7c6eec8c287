"""Tokenizer directories as `save_pretrained` writes them, made from nothing; for tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers as hf

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
TEXT = "Write a function that adds two numbers. def add(a, b): return a + b  # straße 日本語\n" * 3


def byte_level(
    *, begins: bool = True, text: str = TEXT, special: Sequence[str] = SPECIAL
) -> hf.Tokenizer:
    """Return a small tokenizer of bytes and pairs.

    Args:
        begins: whether its texts begin with <s>, or with nothing.
        text: what it is trained on.
        special: its special tokens, whose ids count from 0.
    """
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    if begins:
        tokenizer.post_processor = hf.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return tokenizer


def write_tokenizer(
    directory: Path, tokenizer: hf.Tokenizer | None = None, **settings: object
) -> Path:
    """Writes tokenizer.json and tokenizer_config.json; returns the first."""
    (tokenizer or byte_level()).save(str(directory / "tokenizer.json"))
    tokens = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    # A class that takes everything from tokenizer.json.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens, **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory / "tokenizer.json"
