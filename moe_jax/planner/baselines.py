"""What expert parallelism is compared with: the same model and batch under TP=8, PP=2.

Both baselines are *modelled* by `analytic.py`. The paper does not say how its baseline was run, so
there are two: the most naive that anyone would run, and one as good as can be had.
"""

from dataclasses import dataclass, replace
from typing import Any

from moe_jax.config import Config, override
from moe_jax.planner.analytic import Estimate, estimate
from moe_jax.planner.bounds import Mode
from moe_jax.planner.calibration import Calibration
from moe_jax.planner.share import Layout
from moe_jax.planner.target import Target

TENSOR, PIPE = 8, 2


@dataclass(frozen=True)
class Baseline:
    name: str
    layout: Layout


NAIVE = Baseline(
    "naive", Layout(microbatches=1, virtual_stages=1, sequence_parallel="off", experts="padded")
)
#: 16 microbatches of 8 sequences: more gain nothing (the bubble is 3 % then), fewer wait longer.
FAIR = Baseline(
    "fair", Layout(microbatches=16, virtual_stages=2, sequence_parallel="on", experts="grouped")
)


@dataclass(frozen=True)
class Comparison:
    """One step of the same batch, by expert parallelism and by a baseline."""

    ours: Estimate
    theirs: Estimate

    @property
    def speedup(self) -> float:
        """Their step's time over ours."""
        return self.theirs.predicted.step_s / self.ours.predicted.step_s


def baseline_config(config: Config) -> Config:
    """`config` with its model and batch on a mesh of TP=8, PP=2 and replicas of that.

    Raises:
        ValueError: the devices are no multiple of 16.
    """
    mesh = config.mesh
    devices = mesh.pipe * mesh.data * mesh.fsdp * mesh.expert * mesh.tensor
    replicas, rest = divmod(devices, TENSOR * PIPE)
    if rest:
        raise ValueError(
            f"TP={TENSOR}, PP={PIPE} needs a multiple of {TENSOR * PIPE} devices and {config.name} "
            f"has {devices}: compare a config of 16 devices, such as paper_ep16.toml"
        )
    sizes = {"pipe": PIPE, "data": replicas, "fsdp": 1, "expert": 1, "tensor": TENSOR}
    changes = [f"mesh.{axis}={size}" for axis, size in sizes.items()]
    return override(config, [f"name={config.name}_tp8_pp2", "exchange.streams=1", *changes])


def compare(
    config: Config,
    target: Target,
    mode: Mode,
    baseline: Baseline,
    *,
    skew: float = 0.0,
    calibration: Calibration | None = None,
) -> Comparison:
    """Model one step of `config` and of a baseline with the same model and batch."""
    return Comparison(
        ours=estimate(config, target, mode, skew=skew, calibration=calibration),
        theirs=estimate(
            baseline_config(config),
            target,
            mode,
            skew=skew,
            calibration=calibration,
            layout=baseline.layout,
        ),
    )


def most_microbatches(config: Config, speedup: float, **comparison: Any) -> int | None:
    """The largest number of microbatches with which a baseline is still slower by `speedup`.

    Args:
        comparison: the other arguments of `compare`; the baseline's own number is replaced.

    Returns:
        A divisor of the batch; None when even a single microbatch is not that slow.
    """
    baseline: Baseline = comparison.pop("baseline")
    replicas = baseline_config(config).mesh.data
    sequences = config.train.global_batch // replicas

    def reaches(microbatches: int) -> bool:
        layout = replace(baseline.layout, microbatches=microbatches)
        found = compare(config, baseline=replace(baseline, layout=layout), **comparison)
        return found.speedup >= speedup

    divisors = [m for m in range(1, sequences + 1) if sequences % m == 0]
    return max(filter(reaches, divisors), default=None)
