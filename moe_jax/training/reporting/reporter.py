"""Turns a step's counts, once they are on the host, into rates and shares.

What a report holds and how it reads is `step_report.py`.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from moe_jax.axes import AXES, BATCH_AXES
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.hardware.gpus import gpu_by_device_kind
from moe_jax.model.flops import flops_per_token
from moe_jax.moe.layer import MoeStats
from moe_jax.training.reporting.device_memory import Memory, measure_memory
from moe_jax.training.reporting.step_metrics import StepMetrics
from moe_jax.training.reporting.step_report import LayerReport, PerLayer, StepReport

#: The ETA follows the pace of this many reports.
PACE_WINDOW = 50


class Device(Protocol):
    """The part of `jax.Device` that says what chip it is."""

    @property
    def device_kind(self) -> str:
        """The chip's name, such as "NVIDIA H100 80GB HBM3"."""
        ...


class Reporter:
    """Reports the steps of one run: keeps the clock, the pace and the count of skipped steps.

    A step's duration is the time since the report before it, or since `restart_clock` if that was
    later, so that validation and the like are not charged to a step. The ETA counts them.

    Args:
        config: a checked config.
        mesh: where the run is.
        clock: seconds, from any origin.
    """

    def __init__(self, config: Config, mesh: Mesh, clock: Callable[[], float] = time.perf_counter):
        self._config = config
        self._devices = mesh.local_devices
        self._peak_flops = peak_flops(config, self._devices)
        self._clock = clock
        self._marks: deque[tuple[int, float]] = deque(maxlen=PACE_WINDOW + 1)
        self.start(0, 0)

    def start(self, step: int, skipped_total: int) -> None:
        """Begin after `step` steps, of which so many were skipped (`TrainState.skipped`)."""
        self._step, self._skipped = step, skipped_total
        self._marks.clear()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Charge nothing that happened until now to the next step."""
        self._began = self._clock()

    def __call__(self, step: int, metrics: StepMetrics) -> StepReport:
        """Return the report of a step whose metrics have just reached the host.

        Args:
            step: steps taken, this one included.
            metrics: from `jax.device_get`; getting it waits for the step.
        """
        now = self._clock()
        seconds = (now - self._began) / (step - self._step)
        self._marks.append((step, now))
        pace = seconds
        if len(self._marks) > 1:
            first_step, first_time = self._marks[0]
            pace = (now - first_time) / (step - first_step)
        self._step, self._began = step, now
        self._skipped += int(metrics.skipped)
        return make_report(
            step,
            self._config.train.steps,
            metrics,
            seconds=seconds,
            seconds_per_step=pace,
            skipped_total=self._skipped,
            config=self._config,
            peak_flops=self._peak_flops,
            memory=measure_memory(self._devices),
        )


def make_report(
    step: int,
    total: int,
    metrics: StepMetrics,
    *,
    seconds: float,
    seconds_per_step: float,
    skipped_total: int,
    config: Config,
    peak_flops: float | None,
    memory: Memory,
) -> StepReport:
    """Return the report of a step.

    Args:
        step: steps taken, this one included.
        total: steps of the run.
        metrics: on the host (`jax.device_get`), its counts summed over devices.
        seconds: duration of this step.
        seconds_per_step: recent mean, for the ETA.
        skipped_total: skipped steps so far (`TrainState.skipped`).
        config: a checked config; gives tokens per step, devices and model FLOPs.
        peak_flops: see `peak_flops`.
        memory: see `device_memory.measure_memory`.

    Raises:
        UserError: a duration is not positive.
    """
    if seconds <= 0 or seconds_per_step <= 0:
        raise UserError(f"a step takes time: got {seconds} s, mean {seconds_per_step} s")
    tokens_per_second = config.train.global_batch * config.data.sequence_length / seconds
    devices = math.prod(getattr(config.mesh, axis) for axis in AXES)
    flops = tokens_per_second * flops_per_token(config).total_training / devices
    return StepReport(
        step=step,
        total=total,
        loss=float(metrics.loss),
        auxiliary_loss=float(metrics.auxiliary_loss),
        grad_norm=float(metrics.grad_norm),
        learning_rate=float(metrics.learning_rate),
        seconds=seconds,
        tokens_per_second=tokens_per_second,
        tflops_per_device=flops / 1e12,
        mfu=None if peak_flops is None else flops / peak_flops,
        memory=memory,
        skipped=int(metrics.skipped),
        skipped_total=skipped_total,
        eta_seconds=(total - step) * seconds_per_step,
        layers=None if metrics.stats is None else _layers(metrics.stats, config),
    )


def peak_flops(config: Config, devices: Sequence[Device]) -> float | None:
    """Return the FLOP/s per device that MFU is measured against.

    None where the chip is unknown, and for float32 compute, which the known BF16 peak says
    nothing about.

    Args:
        config: names the precision.
        devices: all of one kind.
    """
    gpu = gpu_by_device_kind(devices[0].device_kind)
    if gpu is None or config.precision.compute != "bfloat16":
        return None
    return gpu.peak_bf16_flops


def _layers(stats: MoeStats, config: Config) -> LayerReport:
    exchange = stats.exchange
    load_le = np.asarray(exchange.load_e, np.float64)
    routed_l = load_le.sum(axis=-1)
    # Every batch shard counts the rounds of its own group.
    shards = math.prod(getattr(config.mesh, axis) for axis in BATCH_AXES)
    return LayerReport(
        load_imbalance=_floats(load_le.max(axis=-1) / load_le.mean(axis=-1)),
        rows_sent=_floats(exchange.rows_sent),
        rows_padded=_floats(exchange.rows_padded),
        rows_dropped=_floats(exchange.rows_dropped),
        overflow_rounds=_floats(np.asarray(exchange.overflow_rounds) / shards),
        off_device_share=_floats(exchange.rows_off_device / routed_l),
        off_host_share=_floats(exchange.rows_off_host / routed_l),
    )


def _floats(values: Any) -> PerLayer:
    return tuple(float(value) for value in np.asarray(values))
