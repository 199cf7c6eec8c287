"""One contestant ready to run: what the process that holds it asks of it."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_jax.bench.harness import Timing, measure
from moe_jax.bench.rivals.sample import positions


@dataclass
class Trial(abc.ABC):
    """A call that computes everything once, and how to look at it.

    Attributes:
        call: returns arrays by name, in the logical shapes of `LayerProblem`.
        counts: "dropped" and "padded" rows, where the contestant counts them.
        note: what a reader of the figures must know.
        checked: makes what `values` looks at, where that is not one call's.
    """

    call: Callable[[], dict[str, Any]]
    counts: Callable[[], dict[str, int]] = dict
    note: str = ""
    checked: Callable[[], dict[str, Any]] | None = None

    @abc.abstractmethod
    def values(self) -> dict[str, np.ndarray]:
        """Trial once and return samples of all arrays, as float32."""

    @abc.abstractmethod
    def time(self, repeats: int) -> Timing:
        """Time the call."""

    @abc.abstractmethod
    def peak_bytes(self) -> int | None:
        """Return the most device memory in use since the last call began; None: not known."""

    @abc.abstractmethod
    def device(self) -> str:
        """Return the kind of device that it runs on."""


class JaxTrial(Trial):
    """What JAX runs."""

    def values(self) -> dict[str, np.ndarray]:
        """Trial once and return samples of all arrays, as float32."""
        arrays = (self.checked or self.call)()
        return {n: np.asarray(a[positions(a.shape)], np.float32) for n, a in arrays.items()}

    def time(self, repeats: int) -> Timing:
        """Time the call."""
        return measure(self.call, repeats=repeats)

    def peak_bytes(self) -> int | None:
        """Return the most memory that this process has used: JAX does not forget."""
        import jax

        stats = jax.local_devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats else None

    def device(self) -> str:
        """Return JAX's kind of device."""
        import jax

        return jax.local_devices()[0].device_kind


class TorchTrial(Trial):
    """What torch runs."""

    def values(self) -> dict[str, np.ndarray]:
        """Trial once and return samples of all arrays, as float32."""
        import torch

        samples = {}
        for name, tensor in (self.checked or self.call)().items():
            at = tuple(
                torch.from_numpy(i).to(tensor.device) for i in positions(tuple(tensor.shape))
            )
            samples[name] = tensor.detach()[at].float().cpu().numpy()
        return samples

    def time(self, repeats: int) -> Timing:
        """Time the call."""
        return measure(self.call, repeats=repeats, wait=_wait_for_torch)

    def peak_bytes(self) -> int | None:
        """Return the most memory of one call, after those that compile."""
        import torch

        if not torch.cuda.is_available():
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def device(self) -> str:
        """Return the GPU's name, which is the same as JAX's kind."""
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _wait_for_torch(result: Any) -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
