"""A small byte-level `tokenizer.json`. No tests here."""

from pathlib import Path

from support.chat_files import byte_level

TEXT = "def straße(x):\n    return '日本語 🙂' + x  # naïve\n" * 3


def train_tokenizer(path: Path, special: tuple[str, ...] = ("<pad>", "</s>")) -> Path:
    """Train on `TEXT` and save a tokenizer that asks for truncation and padding; return `path`."""
    tokenizer = byte_level(begins=False, text=TEXT, special=special)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    return path
