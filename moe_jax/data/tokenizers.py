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
        """Return the token ids of `text` as int32, without any begin or end token."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text, in parallel where the tokenizer can."""
        ...

    def encode_prompt(self, text: str) -> np.ndarray:
        """Return the token ids of a text to continue, at least one, with what begins texts."""
        ...

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> np.ndarray:
        """Return the token ids of a conversation, up to where the answer begins.

        Args:
            messages: each with `role` and `content`.
            variables: what else the chat template knows.

        Raises:
            UserError: there is no chat template, or it refuses the messages.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return what a token adds to a text that goes on; of a special one, its name."""
        ...

    def name(self, token: int) -> str:
        """Return what a token adds to a text that goes on; of a special one, its name."""
        ...

    def stream_decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> StreamDecoder:
        """Return a fresh decoder for one sampled text, which follows the tokens of `prompt`."""
        ...


def load_tokenizer(data: DataConfig) -> Tokenizer:
    """Return the tokenizer that `data.tokenizer` names.

    Args:
        data: the config's section.

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
        """Return the bytes of `text`, int32."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the bytes of each text, int32."""
        return [self.encode(text) for text in texts]

    def encode_prompt(self, text: str) -> np.ndarray:
        """Return the bytes of `text`; of an empty one, the end token."""
        # What follows an end of document is a beginning.
        return self.encode(text) if text else np.array([self.end_id], np.int32)

    def encode_chat(self, messages: Sequence[Message], **variables: Any) -> np.ndarray:
        """Raise UserError: bytes know of no conversations."""
        raise UserError("bytes have no chat template: give a prompt, or a model that can chat")

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; what is no UTF-8 becomes U+FFFD."""
        return bytes(int(i) for i in ids if i < self.end_id).decode("utf-8", errors="replace")

    def name(self, token: int) -> str:
        """Return the character of a byte below 128, U+FFFD of another."""
        return self.decode([token])

    def stream_decoder(self, prompt: Sequence[int] | np.ndarray = ()) -> "ByteStreamDecoder":
        """Return a fresh decoder, which has no use for the prompt."""
        return ByteStreamDecoder()


class ByteStreamDecoder:
    """Incremental UTF-8; ids that are no bytes (end of document, vocabulary padding) are mute."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take one byte and return the characters that it completes."""
        return self._decoder.decode(bytes([token])) if token < ByteTokenizer.end_id else ""

    def finish(self) -> str:
        """Return U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)
