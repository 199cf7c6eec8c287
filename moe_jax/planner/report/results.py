"""A plan: what one program of a config needs and how fast it is on a cluster that is not there.

Its groups of figures are defined in `figures.py`; `planner/planning.py` makes it, `tables.py` draws
it.
"""

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType

from moe_jax.config.schema import Config
from moe_jax.planner.compile.target import Target
from moe_jax.planner.report import tables
from moe_jax.planner.report.figures import (
    CollectiveCost,
    LinkBytes,
    Memory,
    Mode,
    Predicted,
    Step,
)
from moe_jax.planner.xla.timeline import Timeline


@dataclass(frozen=True)
class Plan:
    """All figures of one program: tables for rich and notebooks, `to_json()` for machines.

    `timelines` are those that XLA's scheduler made, order as compiled, attention (and all that a
    calibration knows) at its real cost.
    """

    config: Config
    target: Target
    mode: Mode
    memory: Memory
    #: None, like `predicted`, for a GPU that XLA estimates no times for.
    step: Step | None
    wire: LinkBytes
    collectives: tuple[CollectiveCost, ...]
    predicted: Predicted | None
    #: What the modelled figures rest on, one sentence each.
    assumptions: tuple[str, ...]
    #: Package -> version.
    versions: Mapping[str, str]
    timelines: tuple[Timeline, ...] = field(repr=False)

    @property
    def peak_bytes_per_device(self) -> int:
        """What the program takes from a device at its fullest moment."""
        return self.memory.peak_bytes

    @property
    def fits(self) -> bool:
        """Whether the target's devices are large enough."""
        return self.memory.fits

    def to_json(self) -> dict[str, Any]:
        """Return plain values: every group with its `kind`, times in seconds, sizes in bytes."""
        skipped = {"config", "target", "timelines"}
        groups = {f.name: f for f in dataclasses.fields(self) if f.name not in skipped}
        return {
            "config": self.config.model_dump(mode="json"),
            "target": _target_json(self.target),
            "peak_bytes_per_device": self.peak_bytes_per_device,
            "fits": self.fits,
            **{name: _plain(getattr(self, name)) for name in groups},
        }

    def __rich__(self) -> Group:
        return Group(*self._parts())

    def _repr_html_(self) -> str:
        console = Console(record=True, width=120, file=io.StringIO())
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _parts(self) -> Iterator[RenderableType]:
        target = self.target
        where = f"{target.hosts} x {target.devices_per_host} {target.gpu.title}"
        yield f"{self.config.name}, {self.mode}, compiled for {where}\n"
        yield tables.memory_table(self.memory)
        if self.step:
            yield tables.time_table(self.step)
        yield tables.link_bytes_table(self.wire)
        if self.collectives:
            yield tables.collectives_table(self.collectives)
        if self.predicted:
            yield tables.speed_table(self.predicted)
        yield "Assumptions"
        yield from (f"  - {assumption}" for assumption in self.assumptions)
        yield "  - " + ", ".join(f"{name} {number}" for name, number in self.versions.items())


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
