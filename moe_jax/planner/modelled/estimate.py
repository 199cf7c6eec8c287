"""Memory and speed of any layout by arithmetic alone, in microseconds: what the search prunes with.

Everything here is *modelled*; a compiled plan is `planner/planning.py`. Counts are `per_device.py`,
seconds `layer_time.py`, bytes `memory.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from moe_jax.axes import AXES
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.rates import rates_for
from moe_jax.planner.compile.target import Target
from moe_jax.planner.modelled.compute import LayerCompute, Seconds
from moe_jax.planner.modelled.layer_time import LayerModel
from moe_jax.planner.modelled.memory import MemoryModel
from moe_jax.planner.modelled.outside import OutsideModel
from moe_jax.planner.modelled.per_device import Share
from moe_jax.planner.report.figures import Memory, Mode, Predicted
from moe_jax.planner.report.speed import predict


@dataclass(frozen=True)
class StepModel:
    """Where a step's time goes on one device, in seconds.

    total = whole.total + bubble + optimizer
    """

    kind: Literal["modelled"]
    #: All microbatches through all layers of a stage, head and loss.
    whole: Seconds
    #: Waiting for the pipeline to fill and to drain.
    bubble_s: float
    optimizer_s: float

    @property
    def total_s(self) -> float:
        """Seconds of the step."""
        return self.whole.total + self.bubble_s + self.optimizer_s


@dataclass(frozen=True)
class Estimate:
    """A layout's modelled memory and speed, and what they rest on."""

    config: Config
    target: Target
    mode: Mode
    skew: float
    memory: Memory
    step: StepModel
    predicted: Predicted
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the target's devices are large enough."""
        return self.memory.fits


def estimate(
    config: Config,
    target: Target,
    mode: Mode = "train",
    *,
    calibration: Calibration | None = None,
    skew: float = 0.0,
) -> Estimate:
    """Model one step of a config on a target, for any mesh.

        step = (m v + p - 1) (group forward + backward + sends) + outside + optimiser

    for m microbatches through p pipeline stages with v groups of layers per device
    (`model/pipeline.py`: bubble ticks are p - 1), as often as gradients are accumulated.

    Args:
        config: need not pass `config.check`: layouts that are refused are modelled too.
        target: as many devices as the mesh.
        mode: "forward" (a batch to its loss), "train" (a whole step), or "decode" (one token of
            every sequence, with a full cache).
        calibration: measured rates; None takes stated shares of the peaks on paper.
        skew: load of the busiest expert over the mean, minus 1; 0 is balanced routing.

    Raises:
        UserError: the mesh has another number of devices than the target, the batch does not
            give every shard whole sequences, or a mode or skew that makes no sense.
    """
    _check(config, target, mode, skew)
    share = Share(config, mode)
    compute = LayerCompute(share, rates_for(target.gpu, calibration))
    model = LayerModel(compute, target.topology, skew)
    step = _step(model)
    return Estimate(
        config,
        target,
        mode,
        skew,
        modelled_memory(config, target, mode),
        step,
        predict(step.total_s, config, target, mode),
        _assumptions(model),
    )


def _check(config: Config, target: Target, mode: Mode, skew: float) -> None:
    size = math.prod(getattr(config.mesh, axis) for axis in AXES)
    if size != target.devices:
        raise UserError(
            f"the mesh has {size} devices and the target {target.hosts} hosts x "
            f"{target.devices_per_host} = {target.devices}: make them equal"
        )
    if mode not in get_args(Mode):
        *first, last = get_args(Mode)
        raise UserError(f"mode {mode!r} must be {', '.join(first)} or {last}")
    most = config.model.moe.num_experts / config.model.moe.top_k - 1
    if not 0 <= skew <= most:
        raise UserError(
            f"skew ({skew}) must be from 0 to {most:g}: an expert gets each token at most once, "
            "num_experts / top_k times the mean load"
        )


def _step(model: LayerModel) -> StepModel:
    share, outside = model.share, OutsideModel(model)
    schedule, training = share.schedule, share.mode == "train"
    forward, backward = Seconds(), Seconds()
    for spec, runs in share.runs.items():
        forward += model.forward(spec) * runs
        if training:
            backward += model.backward(spec) * runs
    items = schedule.microbatches * schedule.rounds
    sends = items * outside.directions * outside.send() if schedule.stages > 1 else 0.0
    ticks = forward + backward + Seconds(stages=sends, exposed=sends)
    whole = (ticks + outside.once()) * share.accumulation
    if training:
        whole += outside.update()
    return StepModel(
        "modelled",
        whole,
        bubble_s=share.accumulation * ticks.total / items * (schedule.stages - 1),
        optimizer_s=model.compute.optimizer() if training else 0.0,
    )


def modelled_memory(config: Config, target: Target, mode: Mode) -> Memory:
    """Return the memory of `estimate`, which takes longer.

    Args:
        config: as for `estimate`.
        target: as many devices as the mesh.
        mode: what the program does.
    """
    parts = MemoryModel(Share(config, mode)).parts()
    peak = sum(part.bytes for part in parts)
    return Memory("modelled", peak, peak, target.topology.memory_bytes, parts)


def _assumptions(model: LayerModel) -> tuple[str, ...]:
    share, config = model.share, model.config
    texts = [model.compute.rates.source, _routing(model)]
    if share.streams > 1 and not share.transport.gathers_experts:
        texts.append(
            f"a stream's exchange hides behind the other {share.streams - 1} streams' compute; the "
            "first dispatch and the last combine of a forward layer hide behind nothing"
        )
    if share.accumulation > 1 and share.mode == "train":
        texts.append("gradients are summed over devices in every pass")
    if config.mesh.fsdp > 1:
        texts.append(
            "experts' weights are gathered behind the first stream's attention, unless there is an "
            "exchange beside it"
        )
    if config.mesh.tensor > 1:
        others = "the other stream" if share.streams == 2 else f"{share.streams - 1} other streams"
        hidden = "nothing" if share.streams == 1 else others
        texts.append(
            f"tensor-parallel sums hide behind {hidden}; as rings, without NVLink SHARP; "
            f"activations between matmuls {config.sharding.sequence}"
        )
    if config.mesh.pipe > 1:
        schedule = share.schedule
        texts.append(
            f"{share.accumulation} x {schedule.microbatches} microbatches through "
            f"{schedule.stages} stages of {schedule.rounds} x {schedule.group} layers, bubble "
            f"{schedule.bubble:.1%} of the ticks, sends exposed"
        )
    return tuple(texts)


def _routing(model: LayerModel) -> str:
    share = model.share
    rows = "experts compute the rows that tokens chose"
    if not share.is_grouped:
        rows = f"experts compute {share.config.exchange.capacity_factor:g} x the mean rows"
    if not model.skew:
        return f"balanced routing; {rows}"
    rounds = share.further_rounds(model.skew)
    load = f"the busiest expert has {1 + model.skew:g} x the mean load"
    return f"{load}: {rounds} further rounds; {rows}"
