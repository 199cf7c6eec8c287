"""How much a call of each case is, whoever makes it, and what hardware allows for it at best."""

from collections.abc import Callable
from dataclasses import dataclass

from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.bench.rivals.steps.problem import parameters, step_config
from moe_jax.bench.rivals.task import Task
from moe_jax.hardware.gpus import Gpu
from moe_jax.model.flops import flops_per_token


@dataclass(frozen=True)
class Amount:
    """What one call of a case is.

    Attributes:
        flops: of the model.
        least_bytes: that have to be read and written.
        tokens: that go in.
        why_not: why the case makes no sense; nothing if it does.
    """

    flops: float
    least_bytes: float
    tokens: int
    why_not: str = ""

    def bound_s(self, gpu: Gpu | None) -> float:
        """Return the least seconds at a GPU's peak rates; 0 of a device that is not known."""
        if gpu is None:
            return 0.0
        return max(self.flops / gpu.peak_bf16_flops, self.least_bytes / gpu.memory_bandwidth)


def amount_of(task: Task) -> Callable[[str], Amount]:
    """Return what says how much a case of a task is."""
    return {"layer": _layer_work, "step": _step_work}[task.what](task)


def _layer_work(task: Task) -> Callable[[str], Amount]:
    problem = layer_problem(task.shape, task.tokens or None, task.dtype)

    def work(case: str) -> Amount:
        return Amount(problem.flops, problem.least_bytes, problem.tokens, problem.why_not(case))

    return work


def _step_work(task: Task) -> Callable[[str], Amount]:
    def work(case: str) -> Amount:
        sizes = (task.layers, int(case), task.length)
        config = step_config(task.shape, *sizes, task.dtype)
        tokens = int(case) * task.length
        # Each parameter is read and written, and so are its two moments, in float32.
        least_bytes = 24.0 * parameters(config)
        return Amount(flops_per_token(config).total_training * tokens, least_bytes, tokens)

    return work
