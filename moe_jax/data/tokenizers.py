"""Text to token ids and back: raw bytes, or any Hugging Face `tokenizer.json`.

Both keep one id that ends a document. Sampling token by token goes through a `StreamDecoder`,
which holds back incomplete characters. Nothing here reads a corpus (see `corpus.py`).
"""

import codecs
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moe_jax.config.schema import DataConfig

#: Tokens that usually end a document, the most specific first.
END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "</s>",
    "<eos>",
    "<|eos|>",
)


class StreamDecoder(Protocol):
    """Decodes one token at a time; what it returned so far is never a broken character."""

    def push(self, token: int) -> str:
        """Take one token id and return the text that became certain."""
        ...

    def finish(self) -> str:
        """Return what was held back, incomplete characters replaced by U+FFFD."""
        ...


class Tokenizer(Protocol):
    """What the package needs of a tokenizer; `identity` tells two of them apart."""

    vocab_size: int
    end_id: int
    identity: str

    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text` as int32, without any begin or end token."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, in parallel where the tokenizer can."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; end-of-document and other special tokens leave nothing behind."""
        ...

    def stream_decoder(self) -> StreamDecoder:
        """A fresh decoder for one sampled text."""
        ...


def load_tokenizer(data: DataConfig) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Raises:
        ValueError: the file is missing or broken, `tokenizers` is not installed, or the
            vocabulary has no end-of-document token.
    """
    return ByteTokenizer() if data.tokenizer == "bytes" else HfTokenizer(data.tokenizer)


class ByteTokenizer:
    """UTF-8 bytes as tokens 0..255, and 256 as end of document."""

    vocab_size = 257
    end_id = 256
    identity = "bytes"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(int(i) for i in ids if i < self.end_id).decode("utf-8", errors="replace")

    def stream_decoder(self) -> "ByteStreamDecoder":
        return ByteStreamDecoder()


class ByteStreamDecoder:
    """Incremental UTF-8; ids that are no bytes (end of document, vocabulary padding) are mute."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token])) if token < ByteTokenizer.end_id else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class HfTokenizer:
    """A Hugging Face `tokenizer.json`; needs the `hf` extra.

    Truncation and padding that the file asks for are switched off: a document is encoded whole.
    """

    def __init__(self, path: str | Path) -> None:
        self._tokenizer = _load_hf(Path(path).expanduser())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        # Ids may have gaps, so the number of entries would be too small.
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.end_id = _find_end_id(vocabulary, path)
        digest = hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
        self.identity = f"tokenizer.json sha256 {digest[:16]}"

    def encode(self, text: str) -> np.ndarray:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        # Models may have more rows than the tokenizer has ids; those rows mean nothing.
        known = [int(i) for i in ids if i < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=True)

    def stream_decoder(self) -> "HfStreamDecoder":
        return HfStreamDecoder(self)


class HfStreamDecoder:
    """Emits the growth of the decoded text, and only once its last character is whole.

    The few tokens before the new ones are decoded along with them, because decoders such as
    Metaspace treat the first token of a text differently.
    """

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        self._pending.append(int(token))
        text = self._growth()
        if not text or text.endswith("\ufffd"):
            return ""
        self._context, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        text = self._growth()
        self._context, self._pending = self._pending, []
        return text

    def _growth(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]


def _load_hf(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(
            f'data.tokenizer: {path} is not a file: give "bytes" or the path of a tokenizer.json'
        )
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            f"data.tokenizer: reading {path} needs tokenizers: pip install moe-jax[hf]"
        ) from error
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"data.tokenizer: {path} is not a tokenizer.json: {error}") from error


def _find_end_id(vocabulary: dict[str, int], path: str | Path) -> int:
    for token in END_TOKENS:
        if token in vocabulary:
            return vocabulary[token]
    raise ValueError(
        f"data.tokenizer: {path} has no end-of-document token, looked for {', '.join(END_TOKENS)}: "
        "add one of them to its added_tokens"
    )
