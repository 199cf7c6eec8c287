"""Who takes part, what each needs, and how it is made ready. Imports a framework only when asked.

Each runs in a process of its own: JAX and torch would take each other's memory, and what the one
before left behind would count as the next one's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from moe_jax.bench.rivals.problem import LayerProblem, layer_problem
from moe_jax.bench.rivals.task import Task, What
from moe_jax.bench.rivals.trial import Trial
from moe_jax.config import Config

#: Computes in float32 what the others are compared with, before them.
ORACLE = "float32"


@dataclass(frozen=True)
class Contestant:
    """One way to compute; `prepare` is called in its own process.

    Attributes:
        framework: "jax" or "torch", of which the other is kept off the device.
        packages: what must be installed.
        platforms: where it runs.
        prepare: (task, case) -> what is to be run.
    """

    name: str
    what: What
    framework: Literal["jax", "torch"]
    packages: tuple[str, ...]
    platforms: tuple[str, ...]
    prepare: Callable[[Task, str], Trial]

    def why_not(self, platform: str) -> str:
        """Return why it cannot take part; nothing if it can."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        if platform not in self.platforms:
            return f"runs on {' and '.join(self.platforms)} only"
        return ""


def contestants(what: What, platform: str) -> tuple[Contestant, ...]:
    """Return who takes part, ours first.

    Args:
        what: is to be computed.
        platform: "gpu" or "cpu": a way that only stands in for another there says so by its name.
    """
    return {"layer": _layer_contestants, "step": _step_contestants}[what](platform)


def oracle_of(what: What) -> Contestant:
    """Return what computes in float32."""
    both = ("gpu", "cpu")
    if what == "step":
        return Contestant(ORACLE, what, "torch", ("torch",), both, _step_oracle)
    return Contestant(ORACLE, what, "jax", (), both, _layer_oracle)


def _layer_contestants(platform: str) -> tuple[Contestant, ...]:
    both = ("gpu", "cpu")
    plain = "torch _grouped_mm, compiled" if platform == "gpu" else "torch, loop over experts"
    theirs = ("torch", "transformers")
    return (
        Contestant("moe_jax", "layer", "jax", (), both, _our_layer),
        Contestant(plain, "layer", "torch", ("torch",), both, _torch_layer),
        Contestant("transformers eager", "layer", "torch", theirs, both, _transformers("eager")),
        Contestant(
            "transformers grouped_mm", "layer", "torch", theirs, both, _transformers("grouped_mm")
        ),
        Contestant("jax ragged_dot", "layer", "jax", (), both, _ragged_dot),
        Contestant("jax ragged_dot_mgpu", "layer", "jax", (), ("gpu",), _mosaic),
    )


def _step_contestants(platform: str) -> tuple[Contestant, ...]:
    both = ("gpu", "cpu")
    plain = "torch _grouped_mm, compiled" if platform == "gpu" else "torch, loop over experts"
    theirs = ("torch", "transformers")
    return (
        Contestant("moe_jax", "step", "jax", (), both, _our_step),
        Contestant(plain, "step", "torch", ("torch",), both, _torch_step),
        Contestant(
            "transformers eager", "step", "torch", theirs, both, _transformers_step("eager")
        ),
        Contestant(
            "transformers grouped_mm",
            "step",
            "torch",
            theirs,
            both,
            _transformers_step("grouped_mm"),
        ),
    )


def _problem(task: Task) -> LayerProblem:
    return layer_problem(task.shape, task.tokens or None, task.dtype)


def _layer_oracle(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.layers.oracle import oracle

    return oracle(_problem(task), case)


def _our_layer(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.layers.ours import our_layer

    return our_layer(_problem(task), case, task.overrides)


def _torch_layer(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.layers.torch_layers import plain_layer

    return plain_layer(_problem(task), case, task.device)


def _transformers(experts: Literal["eager", "grouped_mm"]) -> Callable[[Task, str], Trial]:
    def prepare(task: Task, case: str) -> Trial:
        from moe_jax.bench.rivals.layers.torch_layers import transformers_layer

        return transformers_layer(_problem(task), case, task.device, experts)

    return prepare


def _ragged_dot(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.layers.jax_kernels import ragged_dot_layer

    return ragged_dot_layer(_problem(task), case)


def _mosaic(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.layers.jax_kernels import mosaic_layer

    return mosaic_layer(_problem(task), case)


def _config(task: Task, case: str, overrides: tuple[str, ...] = ()) -> Config:
    from moe_jax.bench.rivals.steps.problem import step_config

    sizes = (task.layers, int(case), task.length)
    return step_config(task.shape, *sizes, task.dtype, overrides)


def _our_step(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.steps.ours import our_step

    return our_step(_config(task, case, task.overrides))


def _torch_step(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.steps.torch_step import plain_step

    return plain_step(_config(task, case), task.device)


def _step_oracle(task: Task, case: str) -> Trial:
    from moe_jax.bench.rivals.steps.torch_step import float32_step

    return float32_step(_config(task, case), task.device)


def _transformers_step(
    experts: Literal["eager", "grouped_mm"],
) -> Callable[[Task, str], Trial]:
    def prepare(task: Task, case: str) -> Trial:
        from moe_jax.bench.rivals.steps.torch_step import transformers_step

        return transformers_step(_config(task, case), task.device, experts)

    return prepare
