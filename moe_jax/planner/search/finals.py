"""The best few layouts of a search, compiled, and the best of these.

Enumerating and the arithmetic are `search.py`; printing is `table.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moe_jax.config import dump_config
from moe_jax.hardware.calibration import Calibration
from moe_jax.mesh.xla_options import MEMORY_FRACTION
from moe_jax.planner.planning import Request, plan_all
from moe_jax.planner.report.results import Plan
from moe_jax.planner.search.layouts import describe
from moe_jax.planner.search.search import Candidate, NothingFits, Search, finalists

PlanAll = Callable[..., Sequence[Plan]]
#: How often arithmetic may be too hopeful about memory.
_TRIES = 3


@dataclass(frozen=True)
class Finalist:
    """A layout as the analytic model sees it, and as compiled."""

    candidate: Candidate
    plan: Plan

    @property
    def step_s(self) -> float:
        """Predicted from the compiled schedule; by arithmetic for GPUs XLA has no times for."""
        if self.plan.predicted is None:
            return self.candidate.estimate.step.total_s
        return self.plan.predicted.step_s

    @property
    def fits(self) -> bool:
        """Whether what XLA needs leaves the device what others need."""
        return self.plan.memory.peak_bytes <= MEMORY_FRACTION * self.plan.memory.capacity_bytes


@dataclass(frozen=True)
class Finals:
    """The compiled layouts, fastest first; those that do not fit come last."""

    search: Search
    ranked: tuple[Finalist, ...]

    @property
    def winner(self) -> Finalist:
        """The fastest layout that fits.

        Raises:
            NothingFits: the arithmetic was too hopeful for every layout compiled.
        """
        best = self.ranked[0]
        if best.fits:
            return best
        near = min(self.ranked, key=lambda f: f.plan.memory.peak_bytes)
        need, have = near.plan.memory.peak_bytes, MEMORY_FRACTION * near.plan.memory.capacity_bytes
        raise NothingFits(
            f"none of the {len(self.ranked)} layouts compiled fits; nearest: "
            f"{describe(near.candidate.config)} needs {need / 2**30:.1f} GiB of "
            f"{have / 2**30:.1f} usable: compile more of them with --top, or use more devices"
        )


def compile_finalists(
    found: Search,
    count: int,
    *,
    calibration: Calibration | None = None,
    plan_all: PlanAll = plan_all,
) -> Finals:
    """Compile the best layouts of a search, and the one configured.

    So nobody is given a slower one than they had. If none of them fits, the next ones follow, at
    most `_TRIES` times.

    Args:
        found: a search with candidates.
        count: how many to compile at a time.
        calibration: measured rates.
        plan_all: compiles the requests, in order.

    Raises:
        NothingFits: the search found no candidate.
    """
    found.require_candidates()
    chosen, both = finalists(found, _TRIES * count), []
    for start in range(0, len(chosen), count):
        batch = chosen[start : start + count]
        if start == 0 and found.given and found.given.config not in [c.config for c in batch]:
            batch = (*batch, found.given)
        requests = [Request(c.config, found.target, found.mode) for c in batch]
        plans = plan_all(requests, calibration=calibration)
        both += [Finalist(c, p) for c, p in zip(batch, plans, strict=True)]
        if any(finalist.fits for finalist in both):
            break
    return Finals(found, tuple(sorted(both, key=lambda f: (not f.fits, f.step_s))))


def winner_toml(finals: Finals) -> str:
    """Return the winner as a complete configuration file.

    Args:
        finals: the compiled layouts.

    Raises:
        NothingFits: no layout compiled fits.
    """
    target, winner = finals.search.target, finals.winner
    return (
        f"# Found by `moe-jax plan --search` for {target.hosts} x {target.devices_per_host} "
        f"{target.gpu.title} ({finals.search.mode}):\n"
        f"# {describe(winner.candidate.config)}\n\n{dump_config(winner.candidate.config)}"
    )
