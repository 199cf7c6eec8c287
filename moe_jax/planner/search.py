"""Which layout is best: enumerate all, exclude with reasons, rank by arithmetic.

Figures here are *modelled* (`analytic.py`). Compiling the best few and choosing among them is
`finals.py`; printing is `search_table.py`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from moe_jax.config import ConfigError, check
from moe_jax.config.schema import Config, MeshConfig
from moe_jax.mesh.axes import AXES
from moe_jax.mesh.build import mesh_shape
from moe_jax.planner.analytic import Estimate, estimate
from moe_jax.planner.bounds import Mode
from moe_jax.planner.calibration import Calibration
from moe_jax.planner.target import Target

#: Share of a device's memory that a program may fill: CUDA, NCCL and the allocator need the rest;
#: an assumption.
USABLE_MEMORY = 0.92
#: Load of the busiest expert over the mean, minus 1, that layouts are judged at. Without any, the
#: smallest capacity factor would always win.
TYPICAL_SKEW = 0.2

_STREAMS = (1, 2, 4, 8, 16)
_CAPACITY_FACTORS = (1.0, 1.25, 1.5, 2.0)
_REMAT = ("none", "dispatch", "full")
_ACCUMULATION = (1, 2, 4, 8, 16)


class NothingFits(ValueError):
    """No layout can run; the message says why, and which one is nearest."""


@dataclass(frozen=True)
class Refusal:
    """A rule of `config.check` that excluded layouts."""

    #: The rule's message for one of them, with its values.
    example: str
    count: int


@dataclass(frozen=True)
class Candidate:
    """A layout that `config.check` accepts, and its modelled figures."""

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
        config: its mesh, streams, capacity factor, rematerialisation and accumulation are varied.
        target: the devices to use, all of them.
        mode: what is to be fast, as for `analytic.estimate`.
        calibration: measured rates.
        skew: imbalance that layouts are judged at.
    """
    refused: dict[str, Refusal] = {}
    considered, fitting, nearest, too_large = 0, [], None, 0
    limit = USABLE_MEMORY * target.topology.memory_bytes
    for variant in layouts(config, target.devices, mode):
        considered += 1
        if problem := _problem(variant, target.devices):
            _count(refused, problem)
            continue
        found = Candidate(
            variant, estimate(variant, target, mode, calibration=calibration, skew=skew)
        )
        if found.estimate.memory.peak_bytes <= limit:
            fitting.append(found)
            continue
        too_large += 1
        nearest = found if nearest is None else min(nearest, found, key=_memory)
    return Search(
        target,
        mode,
        considered,
        tuple(sorted(refused.values(), key=lambda refusal: -refusal.count)),
        too_large,
        nearest,
        tuple(sorted(fitting, key=_order(config))),
    )


def layouts(config: Config, devices: int, mode: Mode) -> Iterator[Config]:
    """Yield `config` with every mesh of `devices` and every other choice that matters to `mode`."""
    training = mode == "train"
    choices = product(
        meshes(devices),
        _with(_STREAMS, config.exchange.streams) if mode != "decode" else (1,),
        _with(_CAPACITY_FACTORS, config.exchange.capacity_factor),
        _REMAT if training else (config.train.remat,),
        _with(_ACCUMULATION, config.train.accumulation) if training else (1,),
    )
    for mesh, streams, factor, remat, accumulation in choices:
        exchange = {"streams": streams, "capacity_factor": factor}
        train = {"remat": remat, "accumulation": accumulation}
        yield config.model_copy(
            update={
                "mesh": mesh,
                "exchange": config.exchange.model_copy(update=exchange),
                "train": config.train.model_copy(update=train),
            }
        )


def meshes(devices: int) -> Iterator[MeshConfig]:
    """Yield every mesh of that many devices."""
    for sizes in _factorisations(devices, len(AXES)):
        yield MeshConfig(**dict(zip(AXES, sizes, strict=True)))


def finalists(found: Search, count: int) -> tuple[Candidate, ...]:
    """The fastest candidates; at most two of one mesh, as long as there are other meshes."""
    seen: dict[tuple[int, ...], int] = {}
    first, later = [], []
    for candidate in found.candidates:
        mesh = mesh_shape(candidate.config.mesh)
        seen[mesh] = seen.get(mesh, 0) + 1
        (first if seen[mesh] <= 2 else later).append(candidate)
    return tuple((first + later)[:count])


def _factorisations(number: int, factors: int) -> Iterator[tuple[int, ...]]:
    if factors == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _factorisations(number // first, factors - 1):
                yield (first, *rest)


def _with(values: tuple, own: float) -> tuple:
    """The config's own value first, so that it wins ties."""
    return (own, *(value for value in values if value != own))


def _problem(config: Config, devices: int) -> str | None:
    try:
        check(config, devices)
    except ConfigError as error:
        return error.problems[0]
    return None


def _count(refused: dict[str, Refusal], problem: str) -> None:
    rule = re.sub(r"\d[\d.]*", "#", problem)
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
    need, have = _memory(nearest), USABLE_MEMORY * target.topology.memory_bytes
    return (
        f"nearest: {describe(nearest.config)} needs {need / 2**30:.1f} GiB of "
        f"{have / 2**30:.1f} usable ({USABLE_MEMORY:.0%} of the device): use more devices, a "
        "smaller global batch, or GPUs with more memory"
    )


def describe(config: Config) -> str:
    """A layout in a line: axes above 1, then what else was varied."""
    axes = [f"{a}={n}" for a in AXES if (n := getattr(config.mesh, a)) > 1] or ["1 device"]
    train, exchange = config.train, config.exchange
    return (
        f"{' '.join(axes)}, streams={exchange.streams}, capacity_factor="
        f"{exchange.capacity_factor:g}, remat={train.remat}, accumulation={train.accumulation}"
    )
