"""Text to token ids and back: raw bytes, or any Hugging Face `tokenizer.json`.

Both keep one id that ends a document. Sampling token by token goes through a `StreamDecoder`,
which holds back incomplete characters. Nothing here reads a corpus (see `corpus.py`).
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from moe_jax.config.schema import DataConfig
from moe_jax.data.chat import ChatTemplate, Message
from moe_jax.data.hf_tokenizer import HfTokenizer
from moe_jax.errors import UserError


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

    @property
    def chat(self) -> ChatTemplate | None:
        """How conversations are written; None where nothing says so."""
        ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end what a model generates."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Token ids of `text` as int32, without any begin or end token."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, in parallel where the tokenizer can."""
        ...

    def encode_prompt(self, text: str) -> np.ndarray:
        """Token ids of a text to continue, at least one: with what begins texts for the model."""
        ...

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> np.ndarray:
        """Token ids of a conversation, up to where the answer begins.

        Args:
            messages: each with `role` and `content`.
            variables: what else the chat template knows.

        Raises:
            UserError: there is no chat template, or it refuses the messages.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; end-of-document and other special tokens leave nothing behind."""
        ...

    def name(self, token: int) -> str:
        """What one token adds to a text that goes on; special tokens go by what they are called."""
        ...

    def stream_decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> StreamDecoder:
        """A fresh decoder for one sampled text, which follows the tokens of `prompt`."""
        ...


def load_tokenizer(data: DataConfig) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Raises:
        UserError: the file is missing or broken, `tokenizers` is not installed, or the
            vocabulary has no end-of-document token.
    """
    return ByteTokenizer() if data.tokenizer == "bytes" else HfTokenizer(data.tokenizer)


class ByteTokenizer:
    """UTF-8 bytes as tokens 0..255, and 256 as end of document."""

    vocab_size = 257
    end_id = 256
    identity = "bytes"
    end_ids = frozenset({end_id})
    chat = None

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def encode_prompt(self, text: str) -> np.ndarray:
        # What follows an end of document is a beginning.
        return self.encode(text) if text else np.array([self.end_id], np.int32)

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> np.ndarray:
        raise UserError("bytes have no chat template: give a prompt, or a model that can chat")

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(int(i) for i in ids if i < self.end_id).decode("utf-8", errors="replace")

    def name(self, token: int) -> str:
        return self.decode([token])

    def stream_decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> "ByteStreamDecoder":
        return ByteStreamDecoder()


class ByteStreamDecoder:
    """Incremental UTF-8; ids that are no bytes (end of document, vocabulary padding) are mute."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token])) if token < ByteTokenizer.end_id else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)
