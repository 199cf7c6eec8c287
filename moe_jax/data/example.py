"""One training example: inputs, targets, and what attention and loss may look at.

Where the tokens come from is the business of `packing.py` and `synthetic.py`; how examples form
a global batch that of `batch.py`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32

DocumentMask = Literal["segments", "none"]


@dataclass(frozen=True, eq=False)
class Example:
    """Arrays of one sequence of s tokens.

    Args:
        tokens: input ids.
        targets: the id that follows each input.
        segments: number of the token's document within the window, from 1; attention stays
            inside a segment.
        positions: place of the token in its document, counted from the document's start or
            from the window's, whichever is later.
        weights: weight of each target in the loss, 0 or 1.
    """

    tokens: Int32[np.ndarray, " s"]
    targets: Int32[np.ndarray, " s"]
    segments: Int32[np.ndarray, " s"]
    positions: Int32[np.ndarray, " s"]
    weights: Float32[np.ndarray, " s"]


def make_example(tokens: np.ndarray, segments: np.ndarray, mask: DocumentMask) -> Example:
    """Shift a window by one and derive positions and weights.

    With `segments`, a target in another document than its input has weight 0: nothing inside
    the attended context foretells it. The end token belongs to the document that it ends. With
    `none` the window counts as one document.

    Args:
        tokens: [s + 1] ids.
        segments: [s + 1] document numbers, non-decreasing, from 1.
        mask: as `data.document_mask`.
    """
    if mask == "none":
        segments = np.ones_like(segments)
    inputs, following = segments[:-1], segments[1:]
    index = np.arange(len(inputs), dtype=np.int32)
    begins = np.diff(inputs, prepend=inputs[:1]) != 0
    return Example(
        tokens=tokens[:-1].astype(np.int32),
        targets=tokens[1:].astype(np.int32),
        segments=inputs.astype(np.int32),
        positions=index - np.maximum.accumulate(np.where(begins, index, 0)).astype(np.int32),
        weights=(inputs == following).astype(np.float32),
    )
