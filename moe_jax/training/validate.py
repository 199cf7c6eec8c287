"""The validation loss of a run: the mean over a fixed number of held-out batches."""

from collections.abc import Callable
from typing import Any

import numpy as np

from moe_jax.data import Loader
from moe_jax.training.state import TrainState


class Validation:
    """Compiles on first use; every call reads the same batches."""

    def __init__(self, evaluate: Callable[..., Any], loader: Loader, batches: int):
        self._evaluate = evaluate
        self._loader = loader
        self._batches = batches

    def __call__(self, state: TrainState) -> float:
        """Return the mean cross-entropy in nats per token."""
        sums = [self._evaluate(state.weights, self._loader(step)) for step in range(self._batches)]
        nll, weight = np.sum(np.array([[float(n), float(w)] for n, w in sums]), axis=0)
        return float(nll / weight)
