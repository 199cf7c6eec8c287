"""A plan: what one program of a config needs and how fast it is on a cluster that is not there.

Its groups of figures are defined in `figures.py`; `plan.py` makes it, `render.py` draws it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe_jax.config.schema import Config
from moe_jax.planner.figures import CollectiveCost, Memory, Predicted, Step, Wire
from moe_jax.planner.target import Target
from moe_jax.planner.timeline import Timeline

Mode = Literal["forward", "train", "decode"]


@dataclass(frozen=True)
class Plan:
    """All figures of one program. `to_json()` is the machine's view, printing it the reader's."""

    config: Config
    target: Target
    mode: Mode
    memory: Memory
    #: None, like `predicted`, for a GPU that XLA estimates no times for.
    step: Step | None
    wire: Wire
    collectives: tuple[CollectiveCost, ...]
    predicted: Predicted | None
    #: What the modelled figures rest on, one sentence each.
    assumptions: tuple[str, ...]
    #: Package -> version.
    versions: Mapping[str, str]
    #: One per scheduled computation, attention (and what a calibration knows) at its real cost.
    timelines: tuple[Timeline, ...] = field(repr=False)

    @property
    def peak_bytes_per_device(self) -> int:
        return self.memory.peak_bytes

    @property
    def fits(self) -> bool:
        return self.memory.fits

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: every group with its `kind`, times in seconds, sizes in bytes."""
        skipped = {"config", "target", "timelines"}
        groups = {f.name: f for f in dataclasses.fields(self) if f.name not in skipped}
        return {
            "config": self.config.model_dump(mode="json"),
            "target": _target_json(self.target),
            "peak_bytes_per_device": self.peak_bytes_per_device,
            "fits": self.fits,
            **{name: _plain(getattr(self, name)) for name in groups},
        }


def _target_json(target: Target) -> dict[str, Any]:
    return {
        "gpu": target.gpu.name,
        "hosts": target.hosts,
        "devices_per_host": target.devices_per_host,
        "estimator": dataclasses.asdict(target.estimator),
    }


def _plain(value: Any) -> Any:
    """Dataclasses as dicts of their fields and properties, tuples as lists."""
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value)]
        derived = [n for n, p in vars(type(value)).items() if isinstance(p, property)]
        return {name: _plain(getattr(value, name)) for name in (*fields, *derived)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
