"""What the paper claims, and the evidence that its claims are checked with.

The checks are in `size.py` and `speed.py`; compiling the plans is `report.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from moe_jax.config import Config
from moe_jax.hardware.calibration import Calibration
from moe_jax.planner.claims.findings import Point, Source, Verdict
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.report.results import Plan

#: The paper's own figures. Its GB are taken as 10^9 bytes, as in its input buffer.
BUFFER_BYTES = 10.5e9
MEMORY_BYTES = (12e9, 15e9)
THROUGHPUT, LATENCY = 3.75, 3.8
UTILISATION = (0.65, 0.85)
#: Both numbers of layers that the paper's source states.
LAYERS = (16, 4)
#: Ours, since the paper gives none: how far off still counts, and what "near-linear" means.
TOLERANCE = 0.05
NEAR_LINEAR = 0.9
#: Skewed routing: the busiest expert has 2 x the mean load.
SKEW = 1.0


@dataclass(frozen=True)
class Evidence:
    """What claims are checked with.

    `experts` and `replicas` name the forward plans of the two readings of scaling, smallest first;
    `train` and `other_layers` the plans of a training step and of the other number of layers;
    `baselines` those of each baseline, by (its name, mode).
    """

    config: Config
    plans: Mapping[str, Plan]
    experts: Mapping[str, str]
    replicas: Mapping[str, str]
    train: str
    other_layers: str
    baselines: Mapping[tuple[str, Mode], str]
    calibration: Calibration | None = None

    @property
    def forward(self) -> str:
        return next(iter(self.experts.values()))

    @property
    def label(self) -> str:
        return next(iter(self.experts))

    def ours(self, mode: Mode) -> str:
        """The plan that a baseline's is compared with."""
        return self.train if mode == "train" else self.forward

    def read(self, name: str, key: str) -> tuple[float, Source]:
        source = Source(name, key)
        return source.read(self.plans[name]), source

    def series(self, names: Mapping[str, str], key: str) -> tuple[list[Point], tuple[Source, ...]]:
        found = {at: self.read(name, key) for at, name in names.items()}
        points = [Point(at, value) for at, (value, _) in found.items()]
        return points, tuple(source for _, source in found.values())


def other_layers(config: Config) -> int:
    """The number of layers that the paper also states: 4, or 16 for a config of 4."""
    return LAYERS[0] if config.model.num_layers == LAYERS[1] else LAYERS[1]


def within(value: float, low: float, high: float) -> Verdict:
    """Whether a value is in a claimed range, give or take `TOLERANCE`."""
    return "holds" if low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE) else "fails"


def at_most(value: float, high: float) -> Verdict:
    """Whether a value is no larger than claimed, give or take `TOLERANCE`."""
    return within(value, 0.0, high)


def at_least(value: float, low: float) -> Verdict:
    """Whether a value is no smaller than claimed, give or take `TOLERANCE`."""
    return within(value, low, float("inf"))
