"""Documents packed into sequences, with random access: any index gives its tokens at once.

An epoch is the stream `document, end, document, end, ...` in an order drawn from (seed, epoch),
cut into windows of s + 1 tokens that start s apart, so every token but the first is a target in
exactly one window; a rest shorter than s at the stream's end is left for another epoch's order.
The windows are visited in a second drawn order. Nothing here knows of steps, batches or devices.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_jax.data.corpus import TokenCorpus
from moe_jax.data.example import DocumentMask, Example, make_example
from moe_jax.errors import UserError

_DOCUMENTS, _WINDOWS = 0, 1


@dataclass(frozen=True, eq=False)
class _Epoch:
    """Order of documents, where each ends in the stream (its end token included), of windows."""

    documents: np.ndarray
    ends: np.ndarray
    windows: np.ndarray


class PackedSequences:
    """Sequences of a corpus under every non-negative index; epoch = index // len.

    Args:
        corpus: the documents.
        sequence_length: s, tokens per sequence.
        seed: with the epoch, decides both orders.
        document_mask: see `make_example`.
        order: `shuffled`, or `sequential` for the corpus's own order in every epoch.
        name: what the corpus is called in errors.

    Raises:
        UserError: the corpus is shorter than one window.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        sequence_length: int,
        seed: int,
        document_mask: DocumentMask = "segments",
        order: Literal["shuffled", "sequential"] = "shuffled",
        name: str = "training",
    ) -> None:
        self.corpus = corpus
        self.sequence_length = sequence_length
        self.seed = seed
        self.document_mask: DocumentMask = document_mask
        self.order = order
        total = int(corpus.lengths.sum()) + len(corpus)
        self._windows = (total - 1) // sequence_length
        if self._windows < 1:
            raise UserError(
                f"the {name} text has {total} tokens in {len(corpus)} documents, one sequence "
                f"needs {sequence_length + 1} (data.sequence_length + 1): add {name} text or "
                f"set data.sequence_length to at most {total - 1}"
            )
        # A batch can span two epochs, and prefetching threads may be one further.
        self._epoch = functools.lru_cache(maxsize=4)(self._build_epoch)

    def __len__(self) -> int:
        """Return the number of sequences per epoch."""
        return self._windows

    def sequence(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a window of tokens, and the number of each token's document in it.

        Args:
            index: not negative; those of epoch n are n * len to (n + 1) * len - 1.

        Returns:
            Tokens and document numbers from 1, each int32 [s + 1].

        Raises:
            UserError: `index` is negative.
        """
        if index < 0:
            raise UserError(f"sequence index {index} is negative: indices count from 0")
        number, place = divmod(int(index), self._windows)
        epoch = self._epoch(number)
        return self._fill(epoch, int(epoch.windows[place]) * self.sequence_length)

    def example(self, index: int) -> Example:
        """Return inputs, targets, segments, positions and weights of sequence `index`."""
        return make_example(*self.sequence(index), self.document_mask)

    def fingerprint(self) -> dict[str, str | int]:
        """Return what decides the content of every index; compare with `require_same_data`."""
        return {
            "documents": f"{len(self.corpus)} with digest {self.corpus.digest()}",
            "tokenizer": self.corpus.tokenizer,
            "sequence_length": self.sequence_length,
            "seed": self.seed,
        }

    def _build_epoch(self, epoch: int) -> _Epoch:
        if self.order == "sequential":
            documents = np.arange(len(self.corpus))
            windows = np.arange(self._windows)
        else:
            documents = permutation(len(self.corpus), self.seed, epoch, _DOCUMENTS)
            windows = permutation(self._windows, self.seed, epoch, _WINDOWS)
        return _Epoch(documents, np.cumsum(self.corpus.lengths[documents] + 1), windows)

    def _fill(self, epoch: _Epoch, start: int) -> tuple[np.ndarray, np.ndarray]:
        size = self.sequence_length + 1
        tokens = np.full(size, self.corpus.end_id, np.int32)
        segments = np.empty(size, np.int32)
        slot = int(np.searchsorted(epoch.ends, start, side="right"))
        filled, segment = 0, 1
        while filled < size:
            document = epoch.documents[slot]
            begin = int(epoch.ends[slot] - self.corpus.lengths[document] - 1)
            content = self.corpus.document(document)[start + filled - begin :][: size - filled]
            tokens[filled : filled + len(content)] = content
            end = min(int(epoch.ends[slot]) - start, size)
            segments[filled:end] = segment
            filled, slot, segment = end, slot + 1, segment + 1
        return tokens, segments


def permutation(size: int, *entropy: int) -> np.ndarray:
    """Draw a permutation that only depends on the arguments.

    It sorts raw generator output, which NumPy promises never to change, unlike
    `Generator.permutation` (NEP 19): a run resumed after an upgrade sees the same data.

    Args:
        size: of what is permuted.
        *entropy: non-negative integers, which together are the seed.

    Returns:
        int64 [size], each of range(size) once.
    """
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(size)
    return np.argsort(raw, kind="stable")
