"""Memory and speed of any layout by arithmetic alone, in microseconds: what the search prunes with.

Everything here is *modelled*; a compiled plan is `plan.py`. Counts are `share.py`, seconds
`analytic_time.py`, bytes `analytic_memory.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from moe_jax.config.schema import Config
from moe_jax.mesh.axes import AXES, DATA, EXPERT
from moe_jax.model.flops import flops_per_token
from moe_jax.planner.analytic_compute import LayerCompute, Seconds
from moe_jax.planner.analytic_memory import MemoryModel
from moe_jax.planner.analytic_time import LayerModel
from moe_jax.planner.bounds import Mode
from moe_jax.planner.calibration import Calibration
from moe_jax.planner.figures import Memory, Predicted
from moe_jax.planner.rates import rates_for
from moe_jax.planner.share import Layout, Share
from moe_jax.planner.target import Target

AS_CONFIGURED = Layout()


@dataclass(frozen=True)
class StepModel:
    """Where a step's time goes on one device, in seconds.

    total = whole.total + bubble + optimizer
    """

    kind: Literal["modelled"]
    #: Of one microbatch, averaged over the layers.
    forward_layer: Seconds
    #: None without gradients.
    backward_layer: Seconds | None
    #: All microbatches through all layers of a stage, head and loss.
    whole: Seconds
    #: Waiting for the pipeline to fill and to drain.
    bubble_s: float
    optimizer_s: float

    @property
    def total_s(self) -> float:
        return self.whole.total + self.bubble_s + self.optimizer_s


@dataclass(frozen=True)
class Estimate:
    """A layout's modelled memory and speed, and what they rest on."""

    config: Config
    target: Target
    mode: Mode
    layout: Layout
    skew: float
    memory: Memory
    step: StepModel
    predicted: Predicted
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.memory.fits


def estimate(
    config: Config,
    target: Target,
    mode: Mode = "train",
    *,
    calibration: Calibration | None = None,
    skew: float = 0.0,
    layout: Layout = AS_CONFIGURED,
) -> Estimate:
    """Model one step of a config on a target, for any mesh.

        step = m (stage forward + backward) (1 + (p - 1) / (v m)) + optimiser

    for m microbatches through p pipeline stages with v virtual stages per device (the bubble of
    Narayanan et al., 2021, arxiv.org/abs/2104.04473, section 2.2).

    Args:
        config: need not pass `config.check`: meshes that cannot run yet are modelled too.
        target: as many devices as the mesh.
        mode: "forward" (a batch to its loss), "train" (a whole step), or "decode" (one token of
            every sequence, with a full cache).
        calibration: measured rates; None takes stated shares of the peaks on paper.
        skew: load of the busiest expert over the mean, minus 1; 0 is balanced routing.
        layout: what the config does not say.

    Raises:
        ValueError: the mesh has another number of devices than the target, the batch does not
            give every shard whole sequences, or a mode or skew that makes no sense.
    """
    _check(config, target, mode, skew)
    share = Share(config, mode, layout)
    compute = LayerCompute(share, rates_for(target.gpu, calibration))
    model = LayerModel(compute, target.topology, skew)
    step = _step(model)
    return Estimate(
        config,
        target,
        mode,
        layout,
        skew,
        _memory(share, target),
        step,
        _predicted(share, target, step.total_s),
        _assumptions(model),
    )


def _check(config: Config, target: Target, mode: Mode, skew: float) -> None:
    size = math.prod(getattr(config.mesh, axis) for axis in AXES)
    if size != target.devices:
        raise ValueError(
            f"the mesh has {size} devices and the target {target.hosts} hosts x "
            f"{target.devices_per_host} = {target.devices}: make them equal"
        )
    if mode not in ("forward", "train", "decode"):
        raise ValueError(f"mode {mode!r} must be forward, train or decode")
    most = config.model.moe.num_experts / config.model.moe.top_k - 1
    if not 0 <= skew <= most:
        raise ValueError(
            f"skew ({skew}) must be from 0 to {most:g}: an expert gets each token at most once, "
            "num_experts / top_k times the mean load"
        )


def _step(model: LayerModel) -> StepModel:
    share, mesh = model.share, model.config.mesh
    training = share.mode == "train"
    layers = sum(share.layers.values())
    forward, backward = Seconds(), Seconds()
    for spec, count in share.layers.items():
        forward += model.forward(spec) * count
        if training:
            backward += model.backward(spec) * count
    sends = share.layout.virtual_stages * (2 if training else 1) * model.stage_send()
    micro = forward + backward + model.compute.head() + Seconds(stages=sends, exposed=sends)
    whole = micro * share.microbatches
    if training:
        whole += _last_gradients(model)
    return StepModel(
        "modelled",
        forward * (1 / layers),
        backward * (1 / layers) if training else None,
        whole,
        bubble_s=micro.total * (mesh.pipe - 1) / share.layout.virtual_stages,
        optimizer_s=model.compute.optimizer() if training else 0.0,
    )


def _last_gradients(model: LayerModel) -> Seconds:
    """Sums of the embedding's and the head's gradients, behind which nothing is left to compute."""
    seconds = model.summed(model.share.parameters.ends, (DATA, EXPERT))
    return Seconds(gradients=seconds, exposed=seconds)


def _memory(share: Share, target: Target) -> Memory:
    parts = MemoryModel(share).parts()
    peak = sum(part.bytes for part in parts)
    return Memory("modelled", peak, peak, target.topology.memory_bytes, parts)


def _predicted(share: Share, target: Target, step_s: float) -> Predicted:
    config = share.config
    length = 1 if share.mode == "decode" else config.data.sequence_length
    tokens = config.train.global_batch * length
    flops = flops_per_token(config)
    each = flops.total_training if share.mode == "train" else flops.total_forward
    per_device = tokens * each / target.devices / step_s
    return Predicted(
        "modelled",
        step_s,
        tokens / step_s,
        per_device / 1e12,
        per_device / target.gpu.peak_bf16_flops,
    )


def _assumptions(model: LayerModel) -> tuple[str, ...]:
    share, config = model.share, model.config
    found = [model.compute.rates.source, _routing(model)]
    if share.streams > 1 and share.transport != "local":
        found.append(
            f"a stream's exchange hides behind the other {share.streams - 1} streams' compute; the "
            "first dispatch and the last combine of a forward layer hide behind nothing"
        )
    if share.microbatches > 1 and share.mode == "train":
        found.append("gradients are summed over devices in every microbatch")
    if config.mesh.fsdp > 1:
        found.append("weights of the next layer are gathered, and gradients summed, behind compute")
    if config.mesh.tensor > 1:
        found.append(
            "tensor-parallel sums hide behind nothing; as rings, without NVLink SHARP; sequence "
            f"parallelism {share.layout.sequence_parallel}"
        )
    if config.mesh.pipe > 1:
        found.append(
            f"{share.microbatches} microbatches through {config.mesh.pipe} equal stages, "
            f"{share.layout.virtual_stages} virtual stages per device, sends exposed; embedding "
            "and head on every stage"
        )
    return tuple(found)


def _routing(model: LayerModel) -> str:
    rows = {
        "padded": f"experts compute {model.config.exchange.capacity_factor:g} x the mean rows",
        "grouped": "experts compute exactly the rows there are",
    }[model.share.layout.experts]
    if not model.skew:
        return f"balanced routing; {rows}"
    rounds = model.share.rounds(model.skew)
    return f"the busiest expert has {1 + model.skew:g} x the mean load: {rounds} rounds; {rows}"
