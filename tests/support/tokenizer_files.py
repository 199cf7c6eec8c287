"""A small byte-level `tokenizer.json`. No tests here."""

from pathlib import Path

import tokenizers as hf

TEXT = "def straße(x):\n    return '日本語 🙂' + x  # naïve\n" * 3


def train_tokenizer(path: Path, special: tuple[str, ...] = ("<pad>", "</s>")) -> Path:
    """Train on `TEXT` and save a tokenizer that asks for truncation and padding; return `path`."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    return path
