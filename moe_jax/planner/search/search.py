"""Which layout is best: look at all, exclude with reasons, rank by arithmetic.

Which there are is `layouts.py`. Figures here are *modelled* (`modelled/estimate.py`). Compiling the
best few and choosing among them is `finals.py`; printing is `table.py`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from moe_jax.axes import TENSOR
from moe_jax.config import ConfigError
from moe_jax.config.remat import AUTO
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.network import axis_group
from moe_jax.mesh.build import mesh_shape
from moe_jax.mesh.xla_options import MEMORY_FRACTION
from moe_jax.planner.compile.target import Target
from moe_jax.planner.modelled.estimate import Estimate, estimate, modelled_memory
from moe_jax.planner.planning import Request
from moe_jax.planner.report.figures import Mode
from moe_jax.planner.search.layouts import describe, layouts

#: Load of the busiest expert over the mean, minus 1, that layouts are judged at. Without any, the
#: smallest capacity factor would always win.
TYPICAL_SKEW = 0.2


class NothingFits(UserError):
    """No layout can run; the message says why, and which one is nearest."""


@dataclass(frozen=True)
class Refusal:
    """A rule that excluded layouts."""

    #: The rule's message for one of them, with its values.
    example: str
    count: int


@dataclass(frozen=True)
class Candidate:
    """A layout that can run, and its modelled figures."""

    config: Config
    estimate: Estimate


@dataclass(frozen=True)
class Search:
    """What an enumeration found."""

    target: Target
    mode: Mode
    considered: int
    #: Most frequent first; a layout counts under the first rule that it breaks.
    refused: tuple[Refusal, ...]
    too_large: int
    #: Of those that are too large, the one that needs least memory.
    nearest: Candidate | None
    #: Those that fit, fastest first.
    candidates: tuple[Candidate, ...]
    #: The layout as configured, where it can run.
    given: Candidate | None = None

    def require_candidates(self) -> None:
        """Demand at least one layout that fits.

        Raises:
            NothingFits: with what excluded the others, and the nearest miss.
        """
        if self.candidates:
            return
        reasons = "".join(f"\n  - {r.count} x {r.example}" for r in self.refused)
        near = "" if self.nearest is None else "\n  - " + _miss(self.nearest, self.target)
        raise NothingFits(
            f"none of {self.considered} layouts of {self.target.devices} x "
            f"{self.target.gpu.title} can run: {self.too_large} are too large, the others are "
            f"refused:{reasons}{near}"
        )


def search(
    config: Config,
    target: Target,
    mode: Mode = "train",
    *,
    calibration: Calibration | None = None,
    skew: float = TYPICAL_SKEW,
) -> Search:
    """Model every layout of a config's model and global batch on a target's devices.

    Args:
        config: its mesh, sharding, pipeline, streams, capacity factor, rematerialisation and
            accumulation are varied.
        target: the devices to use, all of them.
        mode: what is to be fast, as for `analytic.estimate`.
        calibration: measured rates.
        skew: imbalance that layouts are judged at.
    """
    refused: dict[str, Refusal] = {}
    considered, too_large, smallest, fitting = 0, 0, None, []
    limit = MEMORY_FRACTION * target.topology.memory_bytes
    # Without gradients nothing is kept, whatever the config says.
    left_open = mode == "train" and config.train.remat == AUTO

    def judged(variant: Config) -> Candidate:
        how = {"calibration": calibration, "skew": skew}
        return Candidate(variant, estimate(variant, target, mode, **how))

    for variant in layouts(config, target.devices, mode, skew):
        considered += 1
        if problem := _problem(variant, target, mode):
            _count(refused, problem)
            continue
        need = modelled_memory(variant, target, mode).peak_bytes
        if need <= limit:
            fitting.append(judged(variant))
            continue
        too_large += 1
        if smallest is None or need < smallest[0]:
            smallest = (need, variant)
    return Search(
        target,
        mode,
        considered,
        tuple(sorted(refused.values(), key=lambda refusal: -refusal.count)),
        too_large,
        judged(smallest[1]) if smallest else None,
        tuple(sorted(fitting, key=_order(config))),
        None if left_open or _problem(config, target, mode) else judged(config),
    )


def finalists(found: Search, count: int) -> tuple[Candidate, ...]:
    """Return the fastest candidates; at most two of one mesh, as long as there are others."""
    seen: dict[tuple[int, ...], int] = {}
    first, later = [], []
    for candidate in found.candidates:
        mesh = mesh_shape(candidate.config.mesh)
        seen[mesh] = seen.get(mesh, 0) + 1
        (first if seen[mesh] <= 2 else later).append(candidate)
    return tuple((first + later)[:count])


def _problem(config: Config, target: Target, mode: Mode) -> str | None:
    """Return what keeps a layout from running, or from being worth a look."""
    try:
        Request(config, target, mode).check()
    except ConfigError as error:
        return error.problems[0]
    except UserError as error:
        return str(error)
    return _slow(config, target)


def _slow(config: Config, target: Target) -> str | None:
    hosts = axis_group(config.mesh, (TENSOR,), target.topology).hosts
    if hosts == 1:
        return None
    return (
        f"mesh.tensor ({config.mesh.tensor}) on hosts of {target.devices_per_host} devices would "
        "sum every layer's activations over the network"
    )


def _count(refused: dict[str, Refusal], problem: str) -> None:
    """Count problems that differ in numbers or in lists of axes only as one."""
    rule = re.sub(r"\d[\d.]*", "#", problem)
    rule = re.sub(r"\w+ #( x \w+ #)*\)|either .*|to #.*", "", rule)
    seen = refused.get(rule)
    refused[rule] = Refusal(seen.example if seen else problem, seen.count + 1 if seen else 1)


def _memory(candidate: Candidate) -> int:
    return candidate.estimate.memory.peak_bytes


def _order(config: Config) -> Callable[[Candidate], tuple]:
    """Fastest first; of equals, the one that needs less memory, then the one like `config`."""

    def key(candidate: Candidate) -> tuple:
        step = candidate.estimate.step.total_s
        same = candidate.config.mesh == config.mesh
        # Differences below a thousandth are none.
        return (float(f"{step:.4g}"), float(f"{_memory(candidate):.4g}"), not same)

    return key


def _miss(nearest: Candidate, target: Target) -> str:
    need, have = _memory(nearest), MEMORY_FRACTION * target.topology.memory_bytes
    return (
        f"nearest: {describe(nearest.config)} needs {need / 2**30:.1f} GiB of "
        f"{have / 2**30:.1f} usable ({MEMORY_FRACTION:.0%} of the device): use more devices, a "
        "smaller global batch, or GPUs with more memory"
    )
