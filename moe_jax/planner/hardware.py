"""GPUs as data: what a chip can do, from `gpus.toml`, by name or by JAX's `device_kind`.

Links between chips belong to a cluster (`mesh/topology.py`), XLA's rendering of a chip to
`target.py`, measured speeds to a calibration. This module imports no JAX.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. Bandwidths in bytes/s, rates of lanes and tensor cores in FMA per clock."""

    name: str
    title: str
    #: Strings JAX reports as `device_kind` for this GPU.
    device_kinds: tuple[str, ...]
    compute_capability: str
    sm_count: int
    #: Highest boost clock, the one vector units are rated at.
    clock_hz: float
    memory_bytes: int
    memory_bandwidth: float
    l2_bytes: int
    shared_bytes_per_sm: int
    #: Largest shared memory of a block, by opting in.
    shared_bytes_per_block: int
    fp32_lanes_per_sm: int
    int32_lanes_per_sm: int
    fp64_lanes_per_sm: int
    vector_bf16_per_lane: int
    tensor_bf16_per_core: int
    tensor_fp64_per_core: int
    #: Dense, on paper; the denominator of MFU.
    peak_bf16_flops: float
    nvlink_links: int
    pcie_bandwidth: float
    #: Field name -> citation.
    sources: Mapping[str, str] = field(hash=False)

    @property
    def tensor_clock_hz(self) -> float:
        """Clock at which the tensor cores (4 per SM) reach the published peak."""
        return self.peak_bf16_flops / (self.sm_count * 4 * self.tensor_bf16_per_core * 2)


#: Fields of a row that are no measured or published quantity and so cite nothing.
UNSOURCED = ("name", "title", "device_kinds", "sources")


def parse_gpus(text: str) -> dict[str, Gpu]:
    """Read TOML in the form of `gpus.toml`.

    Args:
        text: tables `[sources]` and `[gpus.NAME]` with `[gpus.NAME.sources]`.

    Returns:
        Name -> Gpu, in file order.

    Raises:
        ValueError: for a field that is missing, unknown, without a source, or of a wrong type.
    """
    data = tomllib.loads(text)
    return read_rows(Gpu, "GPU", data.get("gpus", {}), data.get("sources", {}))


def read_rows(
    row_type: type[Row], noun: str, rows: Mapping[str, dict], citations: Mapping[str, str]
) -> dict[str, Row]:
    """Turn TOML tables into dataclasses whose every number has a source.

    Args:
        row_type: a dataclass with the fields `name` and `sources`.
        noun: what a row is, for errors: "GPU".
        rows: name -> table.
        citations: the file's `[sources]`.

    Raises:
        ValueError: naming the row, the field and what is wrong with it.
    """
    return {name: _row(row_type, f"{noun} {name!r}", name, rows[name], citations) for name in rows}


def _row(row_type: Any, what: str, name: str, row: dict, citations: Mapping[str, str]) -> Any:
    values: dict[str, Any] = {"name": name} | row
    fields = {f.name: f.type for f in dataclasses.fields(row_type)}
    if missing := sorted(fields.keys() - values.keys()):
        raise ValueError(f"{what}: fields missing: {', '.join(missing)}: add them")
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(
            f"{what}: fields unknown: {', '.join(unknown)}: use {', '.join(fields)} only"
        )
    for key, kind in fields.items():
        if kind in (int, float):
            values[key] = _number(what, key, kind, values[key])
    if bare := sorted(fields.keys() - set(UNSOURCED) - row["sources"].keys()):
        raise ValueError(f"{what}: name the source of {', '.join(bare)} in its sources table")
    if stray := sorted(row["sources"].keys() - fields.keys()):
        raise ValueError(f"{what}: sources of no field: {', '.join(stray)}: remove them")
    if unknown := sorted(set(row["sources"].values()) - citations.keys()):
        raise ValueError(f"{what}: add {', '.join(unknown)} to [sources]")
    values["sources"] = {field: citations[key] for field, key in row["sources"].items()}
    if "device_kinds" in fields:
        values["device_kinds"] = tuple(row["device_kinds"])
    return row_type(**values)


def _number(what: str, key: str, kind: type, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
        raise ValueError(f"{what}: {key} must be a positive {kind.__name__}, got {value!r}")
    return kind(value)


@functools.cache
def known_gpus() -> Mapping[str, Gpu]:
    """Name -> Gpu of the GPUs that come with the package."""
    return parse_gpus(resources.files("moe_jax.planner").joinpath("gpus.toml").read_text())


def gpu_by_name(name: str) -> Gpu:
    """The GPU called `name`, in any case.

    Raises:
        ValueError: naming the known ones.
    """
    gpu = known_gpus().get(name.lower())
    if gpu is None:
        raise ValueError(f"unknown GPU {name!r}: use one of {', '.join(known_gpus())}")
    return gpu


def gpu_by_device_kind(device_kind: str) -> Gpu | None:
    """The GPU behind `jax.Device.device_kind`, or None where we know no peak (no MFU then)."""
    return next((g for g in known_gpus().values() if device_kind in g.device_kinds), None)
