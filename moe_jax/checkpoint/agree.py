"""Small facts that all processes must agree on before any of them acts.

One process that raises while the others go on leaves them hanging in the next collective, so
whoever checks something shares what it found first. Arrays do not travel this way.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from moe_jax.checkpoint.errors import CheckpointError


def is_primary() -> bool:
    """Whether this process is the one that writes manifests, renames and deletes."""
    return jax.process_index() == 0


def gather(fact: Any) -> list[Any]:
    """Return every process's JSON-able `fact`, in process order. A collective."""
    if jax.process_count() == 1:
        return [fact]
    text = np.frombuffer(json.dumps(fact).encode(), dtype=np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [
        json.loads(bytes(row[:n]).decode()) for row, n in zip(rows, lengths.ravel(), strict=True)
    ]


def from_primary(fact: Any) -> Any:
    """Return process 0's JSON-able `fact`; what the others pass is ignored. A collective."""
    return gather(fact)[0]


def primary_does(action: Callable[[], object]) -> None:
    """Run `action` in process 0; if it fails there, all processes raise. A collective.

    Args:
        action: what only process 0 may do, such as a rename.

    Raises:
        CheckpointError: What `action` raised as an OSError or CheckpointError.
    """
    failure = None
    if is_primary():
        try:
            action()
        except (OSError, CheckpointError) as error:
            failure = error
    report = from_primary("" if failure is None else str(failure))
    if report:
        raise CheckpointError(report) from failure
