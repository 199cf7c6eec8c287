"""A tokenised corpus in memory: one flat array, and where each document lies in it.

Training and held-out part are two views of the same array. Nothing is cached on disk: every
process tokenises the text when it starts. Cutting documents into sequences lives in `packing.py`.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from moe_jax.data.sources import Document
from moe_jax.data.tokenizers import Tokenizer
from moe_jax.errors import UserError

#: Text that is handed to the tokenizer at once, in characters.
CHUNK_CHARACTERS = 1 << 22


@dataclass(frozen=True, eq=False)
class TokenCorpus:
    """Tokens of many documents.

    Args:
        tokens: token ids of all documents, flat; uint16 where the vocabulary fits, else int32.
        starts: [documents] where each document begins in `tokens`.
        lengths: [documents] its number of tokens, without an end token.
        keys: [documents] 64-bit hash of the document's name.
        end_id: the token that ends a document.
        tokenizer: identity of the tokenizer.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray
    end_id: int
    tokenizer: str

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> np.ndarray:
        """Return the tokens of one document, a view."""
        start = self.starts[index]
        return self.tokens[start : start + self.lengths[index]]

    def select(self, documents: np.ndarray) -> "TokenCorpus":
        """Return the documents that a mask or an index array chooses; tokens are shared."""
        return self._with(self.starts[documents], self.lengths[documents], self.keys[documents])

    def digest(self) -> str:
        """Return a digest of every document's length and tokens, in order."""
        digest = hashlib.blake2b(self.lengths.astype("<i8").tobytes(), digest_size=16)
        for index in range(len(self)):
            digest.update(self.document(index).data)
        return digest.hexdigest()

    def _with(self, starts: np.ndarray, lengths: np.ndarray, keys: np.ndarray) -> "TokenCorpus":
        return TokenCorpus(self.tokens, starts, lengths, keys, self.end_id, self.tokenizer)


def tokenize(documents: Iterable[Document], tokenizer: Tokenizer) -> TokenCorpus:
    """Encode all documents; those without a token are left out.

    Args:
        documents: in the order that the corpus keeps.
        tokenizer: encodes them in chunks, in parallel where it can.

    Raises:
        UserError: no document has a token.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    parts: list[np.ndarray] = []
    keys: list[int] = []
    for chunk in _chunks(documents):
        encoded = tokenizer.encode_many([document.text for document in chunk])
        for document, tokens in zip(chunk, encoded, strict=True):
            if len(tokens):
                parts.append(tokens.astype(dtype))
                keys.append(key_hash(document.key))
    if not parts:
        raise UserError("no document has a token: name files with text in data.paths")
    lengths = np.array([len(part) for part in parts], np.int64)
    return TokenCorpus(
        tokens=np.concatenate(parts),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        keys=np.array(keys, np.uint64),
        end_id=tokenizer.end_id,
        tokenizer=tokenizer.identity,
    )


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def key_hash(key: str) -> int:
    """Return a document's name as an evenly spread 64-bit number, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(key), digest_size=8).digest(), "little")


def hold_out(corpus: TokenCorpus, fraction: float) -> tuple[TokenCorpus, TokenCorpus]:
    """Split into (training, validation) by the hash of each document's name.

    A document's side does not depend on which other documents there are, except that neither
    side is ever left empty. A single document is cut: its end is held out.

    Args:
        corpus: at least one document.
        fraction: expected share of documents that is held out, above 0 and below 1.
    """
    if len(corpus) == 1:
        return _cut_document(corpus, fraction)
    held = corpus.keys < np.uint64(fraction * 2**64)
    if not held.any():
        held[np.argmin(corpus.keys)] = True
    if held.all():
        held[np.argmax(corpus.keys)] = False
    return corpus.select(~held), corpus.select(held)


def _cut_document(corpus: TokenCorpus, fraction: float) -> tuple[TokenCorpus, TokenCorpus]:
    length = int(corpus.lengths[0])
    if length < 2:
        raise UserError(
            "the only document has a single token, which cannot be divided into training and "
            "validation: name more text in data.paths"
        )
    cut = min(max(int(length * (1 - fraction)), 1), length - 1)
    start = corpus.starts
    return (
        corpus._with(start, np.array([cut]), corpus.keys),
        corpus._with(start + cut, np.array([length - cut]), corpus.keys),
    )
