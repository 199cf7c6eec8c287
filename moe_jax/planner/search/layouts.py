"""Which layouts there are: every mesh, and on each every other choice that matters there.

Which of them can run, and how fast, is `search.py`.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

from moe_jax.axes import AXES
from moe_jax.config.remat import AUTO
from moe_jax.config.schema import Config, ExchangeConfig, MeshConfig, PipelineConfig, ShardingConfig
from moe_jax.inference.inference_config import rows_are_free
from moe_jax.planner.report.figures import Mode

_STREAMS = (1, 2, 4, 8, 16)
_CAPACITY_FACTORS = (1.0, 1.25, 1.5, 2.0)
#: Of what may be kept for backward; `train.remat = "auto"` finds the best of a layout's.
_REMAT = ("none", "attention+residual+dispatch+qkv", "attention", "dispatch", "full")
_ACCUMULATION = (1, 2, 4, 8, 16)
#: Microbatches of a pipeline over its stages, and groups of layers per device.
_MICROBATCHES, _VIRTUAL_STAGES = (1, 2, 4, 8), (1, 2, 4)


def layouts(config: Config, devices: int, mode: Mode, skew: float = 0.0) -> Iterator[Config]:
    """Yield `config` with every mesh of `devices` and every other choice that matters to `mode`.

    A choice that a mesh makes meaningless (stages without a pipe axis, ...) is not varied on it;
    nor is a capacity factor beyond those that spare a round at this skew.

    Args:
        config: what is not varied is as in it.
        devices: product of all mesh axes.
        mode: what is to be fast.
        skew: load of the busiest expert over the mean, minus 1.
    """
    training = mode == "train"
    remats = _remats(config) if training else (config.train.remat,)
    for mesh in meshes(devices):
        exchanges = _exchanges(config, mesh, mode, skew)
        choices = product(
            exchanges, remats, _passes(config, mesh, training), _shardings(config, mesh, mode)
        )
        for exchange, remat, (accumulation, pipeline), sharding in choices:
            train = {"remat": remat, "accumulation": accumulation}
            yield config.model_copy(
                update={
                    "mesh": mesh,
                    "sharding": sharding,
                    "pipeline": pipeline,
                    "exchange": exchange,
                    "train": config.train.model_copy(update=train),
                }
            )


def _exchanges(config: Config, mesh: MeshConfig, mode: Mode, skew: float) -> list[ExchangeConfig]:
    streams = _with(_STREAMS, config.exchange.streams) if mode != "decode" else (1,)
    factors = _factors(config, skew)
    slots = config.train.global_batch
    if mode == "decode" and rows_are_free(config.model_copy(update={"mesh": mesh}), slots):
        # One round takes every routing, whatever the config says.
        factors = (config.exchange.capacity_factor,)
    return [
        config.exchange.model_copy(update={"streams": n, "capacity_factor": factor})
        for n, factor in product(streams, factors)
    ]


def _remats(config: Config) -> tuple[str, ...]:
    own = config.train.remat
    return _REMAT if own == AUTO else _with(_REMAT, own)


def _factors(config: Config, skew: float) -> tuple[float, ...]:
    own = config.exchange.capacity_factor
    enough = min(f for f in (*_CAPACITY_FACTORS, 1 + skew) if f >= 1 + skew)
    return _with(tuple(f for f in _CAPACITY_FACTORS if f <= enough), own)


def _passes(config: Config, mesh: MeshConfig, training: bool) -> list[tuple[int, PipelineConfig]]:
    """Return (accumulation, pipeline): ways to cut a batch.

    A pipeline's microbatches save the memory that accumulation would.
    """
    own = (config.train.accumulation, config.pipeline)
    if mesh.pipe == 1:
        plain = PipelineConfig()
        return [(n, plain) for n in (_with(_ACCUMULATION, own[0]) if training else (1,))]
    cuts = [
        (1, PipelineConfig(microbatches=mesh.pipe * m, virtual_stages=v))
        for m, v in product(_MICROBATCHES, _VIRTUAL_STAGES)
    ]
    return cuts if config.mesh.pipe == 1 or own in cuts else [own, *cuts]


def _shardings(config: Config, mesh: MeshConfig, mode: Mode) -> list[ShardingConfig]:
    own = config.sharding
    dense = _with(("fsdp", "fsdp_expert"), own.dense) if mesh.expert > 1 else ("fsdp",)
    # Rows of split tokens alone travel to experts; a decode step splits none.
    free = mesh.tensor > 1 and mesh.expert == 1 and mode != "decode"
    sequence = _with(("split", "whole"), own.sequence) if free else ("split",)
    return [own.model_copy(update={"dense": d, "sequence": s}) for d, s in product(dense, sequence)]


def meshes(devices: int) -> Iterator[MeshConfig]:
    """Yield every mesh of that many devices."""
    for sizes in _factorisations(devices, len(AXES)):
        yield MeshConfig(**dict(zip(AXES, sizes, strict=True)))


def _factorisations(number: int, factors: int) -> Iterator[tuple[int, ...]]:
    if factors == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _factorisations(number // first, factors - 1):
                yield (first, *rest)


def _with(values: tuple, own: Any) -> tuple:
    """Return the values, the config's own first, so that it wins ties."""
    return (own, *(value for value in values if value != own))


def describe(config: Config) -> str:
    """Return a layout in a line: axes above 1, then what else was varied."""
    mesh, train, exchange = config.mesh, config.train, config.exchange
    axes = [f"{a}={n}" for a in AXES if (n := getattr(mesh, a)) > 1] or ["1 device"]
    parts = [
        " ".join(axes),
        f"streams={exchange.streams}",
        f"capacity_factor={exchange.capacity_factor:g}",
        f"remat={train.remat}",
        f"accumulation={train.accumulation}",
    ]
    if mesh.pipe > 1:
        parts.append(f"microbatches={config.pipeline.microbatches}")
        parts.append(f"virtual_stages={config.pipeline.virtual_stages}")
    if mesh.expert > 1 and config.sharding.dense != "fsdp":
        parts.append(f"dense={config.sharding.dense}")
    if mesh.tensor > 1:
        parts.append(f"sequence={config.sharding.sequence}")
    return ", ".join(parts)
