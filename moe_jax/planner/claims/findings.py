"""One line of a claim's check: what we get, how we know, and what it would take.

Which claims there are and how each is checked is `report.py`, the figures come from plans
(`report/results.py`) and from the analytic model (`modelled/estimate.py`).
"""

from dataclasses import dataclass
from typing import Any, Literal

from moe_jax.errors import UserError
from moe_jax.planner.report.figures import Kind
from moe_jax.planner.report.results import Plan

Unit = Literal["count", "bytes", "times", "share", "parameters"]
Verdict = Literal["holds", "fails", "not stated"]


@dataclass(frozen=True)
class Source:
    """A figure of a plan: the plan's name, and where its JSON has the figure."""

    plan: str
    #: Dotted, such as "wire.nic.over_step".
    key: str

    def read(self, plan: Plan) -> float:
        """Return the figure itself.

        Raises:
            UserError: when the plan has none (a GPU that XLA estimates no times for).
        """
        value: Any = plan
        for name in self.key.split("."):
            value = getattr(value, name)
            if value is None:
                raise UserError(f"the plan {self.plan} has no {self.key}: {name} is unknown")
        return float(value)


@dataclass(frozen=True)
class Point:
    """A value at one place (EP16, 4 layers, ...; "" where there is only one)."""

    at: str
    value: float


@dataclass(frozen=True)
class Finding:
    """What one way of checking a claim gives."""

    case: str
    points: tuple[Point, ...]
    unit: Unit
    kind: Kind
    verdict: Verdict
    #: What it would take for the claim to hold, or what it rests on where it does.
    takes: str
    assumptions: tuple[str, ...] = ()
    #: The plans' figures that the points are, or are ratios of.
    sources: tuple[Source, ...] = ()

    @property
    def result(self) -> str:
        """The points as text."""
        shown = (f"{p.at} {show(p.value, self.unit)}".strip() for p in self.points)
        return ", ".join(shown)


@dataclass(frozen=True)
class Claim:
    """Something the paper says, and every way in which we checked it."""

    name: str
    stated: str
    findings: tuple[Finding, ...]


def show(value: float, unit: Unit) -> str:
    """Print a value with its unit, to three digits or so; GB are 10^9 bytes."""
    return {
        "count": f"{value:g}",
        "bytes": f"{value / 1e9:#.3g}".rstrip(".") + " GB",
        "times": f"{value:.2f}x",
        "share": f"{value:.1%}",
        "parameters": f"{value / 1e9:.3g} billion",
    }[unit]
