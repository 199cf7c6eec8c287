"""What expert parallelism is compared with: the same model and batch under TP=8, PP=2.

The paper does not say how its baseline was run, so there are two, each a config of its own in
`configs/`: as plain as anyone would run it, and as good as can be had. Here they are overrides of
any config of the paper's model; speeds come from compiled plans (`report.py`) or
`modelled/estimate.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moe_jax.config import Config, override
from moe_jax.errors import UserError
from moe_jax.planner.compile.target import Target
from moe_jax.planner.modelled.estimate import Estimate, estimate
from moe_jax.planner.report.figures import Mode

TENSOR, PIPE = 8, 2


@dataclass(frozen=True)
class Baseline:
    name: str
    #: The config's name, and its file's in `configs/`.
    config: str
    changes: tuple[str, ...]


#: One microbatch at a time: its stages wait for each other, and nothing but 2 streams (in place of
#: 1, which is generous) hides the sums over the tensor axis. The whole batch as one microbatch is
#: as slow and needs more memory than there is, so 16 follow each other.
NAIVE = Baseline(
    "naive",
    "paper_baseline_tp8_pp2",
    (
        "sharding.sequence=whole",
        "exchange.streams=2",
        "train.accumulation=16",
        "pipeline.microbatches=1",
        "pipeline.virtual_stages=1",
    ),
)
#: 16 microbatches of 8 sequences: more gain nothing (the bubble is 1.5 % then), fewer wait longer.
TUNED = Baseline(
    "tuned",
    "paper_baseline_tuned",
    (
        "sharding.sequence=split",
        "exchange.streams=1",
        "train.accumulation=1",
        "pipeline.microbatches=16",
        "pipeline.virtual_stages=4",
    ),
)
BASELINES = (NAIVE, TUNED)


def baseline_config(config: Config, baseline: Baseline, *changes: str) -> Config:
    """`config` with its model and batch on a mesh of TP=8, PP=2 and replicas of that.

    Args:
        changes: further overrides.

    Raises:
        UserError: the devices are no multiple of 16, or a stage of the pipeline has no layer.
    """
    mesh = config.mesh
    devices = mesh.pipe * mesh.data * mesh.fsdp * mesh.expert * mesh.tensor
    replicas, rest = divmod(devices, TENSOR * PIPE)
    if rest:
        raise UserError(
            f"TP={TENSOR}, PP={PIPE} needs a multiple of {TENSOR * PIPE} devices and {config.name} "
            f"has {devices}: compare a config of 16 devices, such as paper_ep16.toml"
        )
    layers = config.model.num_layers
    if layers < PIPE:
        raise UserError(
            f"PP={PIPE} needs a layer for each stage and {config.name} has model.num_layers = "
            f"{layers}: compare a model of {PIPE} layers or more"
        )
    sizes = {"pipe": PIPE, "data": replicas, "fsdp": 1, "expert": 1, "tensor": TENSOR}
    of_mesh = [f"mesh.{axis}={size}" for axis, size in sizes.items()]
    named = [f"name={baseline.config}", "exchange.transport=local", "sharding.dense=fsdp"]
    # Each group needs a layer.
    groups = [f"pipeline.virtual_stages={min(4, layers // PIPE)}"]
    fewer = groups if baseline is TUNED else []
    return override(config, [*named, *of_mesh, *baseline.changes, *fewer, *changes])


def most_microbatches(
    config: Config,
    baseline: Baseline,
    slow_enough: Callable[[Estimate], bool],
    target: Target,
    mode: Mode,
    **how: Any,
) -> int | None:
    """The largest number of pipelined microbatches with which a baseline is still slow enough.

    Args:
        slow_enough: true up to some number of microbatches.
        how: calibration and skew, as for `estimate`.

    Returns:
        A divisor of the batch; None when even a single microbatch is not that slow.
    """
    replicas = baseline_config(config, baseline).mesh.data
    sequences = config.train.global_batch // replicas

    def slow(microbatches: int) -> bool:
        own = (f"pipeline.microbatches={microbatches}", "train.accumulation=1")
        return slow_enough(estimate(baseline_config(config, baseline, *own), target, mode, **how))

    return max(
        filter(slow, (m for m in range(1, sequences + 1) if sequences % m == 0)), default=None
    )
