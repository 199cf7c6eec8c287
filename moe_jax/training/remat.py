"""`train.remat = "auto"`: the most valuable set of kept values that fits, found by compiling.

Sets stand in an order: each keeps what the one before it keeps, and that next which spares most
time per byte. XLA's buffer assignment of a few of them, half-way between what fits and what does
not, finds the last one that fits. How a set is written is `config/remat.py`; who compiles, and how
much memory there is, is the caller's business: devices at hand (`auto_remat.py`) or absent ones
(`planner/planning.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import jax.numpy as jnp

from moe_jax.axes import EXPERT, TENSOR
from moe_jax.config.remat import EVERYTHING, NOTHING, kept_names, remat_of
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.hardware.clusters import known_clusters
from moe_jax.hardware.gpus import gpu_by_name, known_gpus
from moe_jax.hardware.network import axis_group, collective_time
from moe_jax.hardware.rates import rates_for
from moe_jax.hardware.topology import Topology
from moe_jax.model.flops import mean_context
from moe_jax.model.pattern import layer_sequence
from moe_jax.model.remat.spared import OF_ROWS, Spared, spared, spared_share

#: Stands in for devices of which no rates are known: an order needs their ratios only.
_LIKE = "h100"
#: An all-to-all so large that its latency does not count.
_LARGE = 2**30

Program = TypeVar("Program")


@dataclass(frozen=True)
class Tried:
    """A set, and what XLA reserves for its program on each device."""

    remat: str
    peak_bytes: int


@dataclass(frozen=True)
class Chosen(Generic[Program]):
    """The set that was chosen, its program, and all that were compiled, in order."""

    remat: str
    program: Program
    limit_bytes: int
    tried: tuple[Tried, ...]


def keeping(config: Config, remat: str) -> Config:
    """Return a config that says what is kept.

    Args:
        config: any.
        remat: a value of `train.remat`.
    """
    return config.model_copy(update={"train": config.train.model_copy(update={"remat": remat})})


def sets(config: Config, topology: Topology) -> tuple[str, ...]:
    """Return the values of `train.remat` to choose from, each keeping more than the one before.

    Names come by the seconds that they spare per byte that they take, both *modelled*; of equals
    the smaller first. Of a stream's sending, only what the other streams do not hide counts.

    Args:
        config: model, mesh and streams.
        topology: what the mesh runs on; unknown rates are taken to be an H100's.
    """
    worth = {name: _worth(name, config, topology) for name in kept_names(EVERYTHING)}
    useful = [name for name, (seconds, _) in worth.items() if seconds]
    # Products differ by roundings: of all of them, the smaller one first.
    order = sorted(useful, key=lambda name: (-float(f"{_density(worth[name]):.3g}"), worth[name]))
    found = [remat_of(order[:n]) for n in range(len(order) + 1)]
    # Groups of layers that take turns would keep parameters (`config/mesh_rules.py`).
    return (*found, EVERYTHING) if config.pipeline.virtual_stages == 1 else tuple(found)


def _density(worth: tuple[float, float]) -> float:
    seconds, size = worth
    return seconds / size


def _worth(name: str, config: Config, topology: Topology) -> tuple[float, float]:
    """Return the seconds that a name spares and the bytes that it takes, per token of all layers.

    What a whole tensor axis shares out counts once for each of its devices.
    """
    seconds = size = 0.0
    for spec in layer_sequence(config.model):
        of = spared(config.model, spec).get(name)
        if of is None:
            continue
        times = config.model.moe.top_k if name in OF_ROWS else 1
        context = mean_context(config.data.sequence_length, spec.window)
        seconds += times * _seconds(name, of, context, config, topology)
        size += times * _values(name, of, config)
    return seconds, size


def _values(name: str, of: Spared, config: Config) -> float:
    whole = name == "residual" and config.sharding.sequence == "whole"
    return of.values if whole else of.values / config.mesh.tensor


def _seconds(name: str, of: Spared, context: float, config: Config, topology: Topology) -> float:
    rates = rates_for(known_gpus().get(topology.device_kind) or gpu_by_name(_LIKE))
    computing = 2 * of.elements / rates.matmul_flops_per_s
    computing += 2 * of.attention_width * context / rates.attention_forward_flops_per_s
    sending = 0.0
    if name == "dispatch":
        sending = of.values * _per_value("all-to-all", EXPERT, config, topology)
    if name == "residual":
        sending = of.values * _per_value("reduce-scatter", TENSOR, config, topology)
    return computing / config.mesh.tensor + sending / config.exchange.streams


def _per_value(kind: str, axis: str, config: Config, topology: Topology) -> float:
    """Return the seconds that one value of a large collective over a mesh axis takes."""
    like = known_clusters()[_LIKE]
    stand_in = {name: getattr(like, name) for name in topology.unknown if hasattr(like, name)}
    group = axis_group(config.mesh, (axis,), topology)
    width = jnp.dtype(config.precision.compute).itemsize
    return width * collective_time(kind, _LARGE, group, replace(topology, **stand_in)) / _LARGE


def choose(
    order: Sequence[str], limit_bytes: int, build: Callable[[str], tuple[Program, int]]
) -> Chosen[Program]:
    """Return the last set of an order whose program fits, by halving what is left of the order.

    If the next one is too large, what follows in the order may still have room: one more program
    keeps all of it but that.

    Args:
        order: see `sets`.
        limit_bytes: what a program may take of each device.
        build: compiles the program of a set; returns it and what it takes, in bytes per device.

    Raises:
        UserError: not even the first set fits.
    """
    tried: list[Tried] = []
    fitting: dict[str, Program] = {}

    def fits(remat: str) -> bool:
        program, peak = build(remat)
        tried.append(Tried(remat, peak))
        if peak > limit_bytes:
            return False
        fitting.clear()
        fitting[remat] = program
        return True

    low, high = -1, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(order[middle]) else (low, middle)
    if low < 0:
        raise UserError(_too_large(tried[-1], limit_bytes))
    if beyond := _without_next(order, low):
        fits(beyond)
    ((remat, program),) = fitting.items()
    return Chosen(remat, program, limit_bytes, tuple(tried))


def _without_next(order: Sequence[str], at: int) -> str | None:
    """Return what keeps all names of an order but that which comes after place `at`."""
    names = [set(kept_names(remat)) for remat in order if remat != EVERYTHING]
    if at + 2 >= len(names):
        return None
    return remat_of(names[at] | names[-1] - names[at + 1])


def _too_large(least: Tried, limit_bytes: int) -> str:
    return (
        f"train.remat = auto: the training step takes {size_text(least.peak_bytes)} of each device "
        f"where it keeps least ({least.remat}, compiled), and may take {size_text(limit_bytes)}: "
        "raise train.accumulation, lower train.global_batch or use more devices; or name what is "
        f"kept, to run it anyway (train.remat={NOTHING})"
    )


def describe(chosen: Chosen, config: Config) -> Iterator[str]:
    """Yield lines that say what was chosen, and what was tried.

    Args:
        chosen: what was chosen.
        config: the run's.
    """
    yield (
        f"train.remat = auto: {chosen.remat}, of the sets below that fit in "
        f"{size_text(chosen.limit_bytes)} per device the one that spares most"
    )
    for one in sorted(chosen.tried, key=lambda tried: tried.peak_bytes):
        size, saved = size_text(one.peak_bytes), _spares(one.remat, config)
        yield f"  {one.remat}: {size} compiled; spares {saved}"


def _spares(remat: str, config: Config) -> str:
    """Return what backward need not do again."""
    if remat == EVERYTHING:
        return "everything"
    names = kept_names(remat)
    share = f"{spared_share(config, names):.0%} of a forward pass"
    sent = ", and sending rows" if "dispatch" in names and config.mesh.expert > 1 else ""
    return share + sent


def size_text(size: float) -> str:
    """Return bytes as a reader takes them in."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
