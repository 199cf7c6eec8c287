"""What a training step tells its user, as values, as one record and as one line.

Computing the values from a step's counts is `reporter.py`; writing records is `writers.py`, showing
lines `progress.py`.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

from moe_jax.training.reporting.device_memory import Memory

PerLayer = tuple[float, ...]


@dataclass(frozen=True)
class LayerReport:
    """The exchange, one value per MoE layer, over all devices, streams and microbatches.

    Attributes:
        load_imbalance: rows of the busiest expert over the mean (1 is even).
        rows_sent: rows that an expert served.
        rows_padded: rows that were moved or computed without a token in them.
        rows_dropped: rows that no expert served.
        overflow_rounds: rounds after the main one, mean over devices.
        off_device_share: share of rows whose expert is on another device.
        off_host_share: share of rows whose expert is on another host.
    """

    load_imbalance: PerLayer
    rows_sent: PerLayer
    rows_padded: PerLayer
    rows_dropped: PerLayer
    overflow_rounds: PerLayer
    off_device_share: PerLayer
    off_host_share: PerLayer


@dataclass(frozen=True)
class StepReport:
    """One step, in units people read.

    Attributes:
        step, total: steps taken, this one included, and steps of the run.
        loss, auxiliary_loss: cross-entropy in nats per token, and balance losses.
        grad_norm: global norm before clipping.
        learning_rate: of this step.
        seconds: of this step.
        tokens_per_second: positions of the batch over `seconds`, all devices together.
        tflops_per_device: model TFLOP/s (`model/flops.py`).
        mfu: that over the chip's BF16 peak; None where the peak is unknown or does not apply.
        memory: see `device_memory.py`.
        skipped, skipped_total: whether this step was skipped (0 or 1), and steps skipped so far.
        eta_seconds: until the last step.
        layers: per MoE layer; None for a model without any.
    """

    step: int
    total: int
    loss: float
    auxiliary_loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    tokens_per_second: float
    tflops_per_device: float
    mfu: float | None
    memory: Memory
    skipped: int
    skipped_total: int
    eta_seconds: float
    layers: LayerReport | None

    def to_record(self) -> dict[str, Any]:
        """Return a flat dict for JSON; its keys are the same for every config.

        `moe.` leads the exchange's totals (None without MoE layers), `layers.` lists of one value
        per MoE layer.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        memory, layers = own.pop("memory"), own.pop("layers")
        own |= {"memory_gib": memory.gib, "memory_kind": memory.kind}
        lists = {f.name: list(getattr(layers, f.name, ())) for f in fields(LayerReport)}
        summary = {f"moe.{name}": _SUMMARY[name](lists[name]) for name in _SUMMARY}
        return own | summary | {f"layers.{name}": values for name, values in lists.items()}

    def to_line(self) -> str:
        """Return one line for a terminal or a log file, under 200 characters."""
        rate = f"{self.tflops_per_device:.3g} TFLOP/s"
        if self.mfu is not None:
            rate += f" ({self.mfu:.1%} MFU)"
        where = "" if self.memory.kind == "device peak" else f" ({self.memory.kind})"
        parts = [
            f"step {self.step}/{self.total}",
            f"loss {self.loss:.4f}",
            f"grad {self.grad_norm:.3g}",
            f"lr {self.learning_rate:.2e}",
            f"{_short(self.tokens_per_second)} tok/s",
            f"{self.seconds:.3g} s",
            rate,
            f"{self.memory.gib:.3g} GiB{where}",
            *self._exchange_parts(),
            f"skipped {self.skipped_total}",
            f"ETA {duration(self.eta_seconds)}",
        ]
        return " | ".join(parts)

    def _exchange_parts(self) -> list[str]:
        if self.layers is None:
            return []
        worst, dropped = max(self.layers.load_imbalance), sum(self.layers.rows_dropped)
        overflow = sum(self.layers.overflow_rounds)
        return [f"load {worst:.2f}x", f"drop {_short(dropped)}", f"overflow {_short(overflow)}"]


#: How a list over layers becomes one number; the share of a sum is that of equal layers.
_SUMMARY = {
    "load_imbalance": lambda values: max(values, default=None),
    "rows_sent": lambda values: sum(values) if values else None,
    "rows_padded": lambda values: sum(values) if values else None,
    "rows_dropped": lambda values: sum(values) if values else None,
    "overflow_rounds": lambda values: sum(values) if values else None,
    "off_device_share": lambda values: sum(values) / len(values) if values else None,
    "off_host_share": lambda values: sum(values) / len(values) if values else None,
}


def duration(seconds: float) -> str:
    """Write seconds as people do: "45s", "12m05s", "3h07m", "2d04h"."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def _short(value: float) -> str:
    """Write a count in at most five characters: 950, 12.3k, 4.56M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # 999.6k would be rounded to 1e+03k
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
