"""GPUs as data: what a chip can do, from `gpus.toml`, by name or by JAX's `device_kind`.

Links between chips belong to a cluster (`hardware/topology.py`), XLA's rendering of a chip to
`planner/compile/target.py`, measured speeds to a calibration. This module imports no JAX.
"""

import dataclasses
import functools
import re
import sys
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, TypeVar

from moe_jax.errors import UserError

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
        UserError: for a field that is missing, unknown, without a source, or of a wrong type.
    """
    return read_rows(Gpu, "GPU", tomllib.loads(text), "gpus")


def read_rows(row_type: type[Row], noun: str, data: Mapping[str, Any], key: str) -> dict[str, Row]:
    """Turn TOML tables into dataclasses whose every number has a source.

    Args:
        row_type: a dataclass with the fields `name` and `sources`.
        noun: what a row is, for errors: "GPU".
        data: the file, of which `[key.NAME]` are the rows and `[sources]` the citations.
        key: the name of the tables of rows: "gpus".

    Returns:
        Name -> row, in file order.

    Raises:
        UserError: naming the table, the field and what is wrong with it.
    """
    rows = _table(f"[{key}]", data.get(key, {}), f"write [{key}.NAME] for each {noun}")
    citations = _citations("[sources]", data.get("sources", {}))
    return {name: _row(row_type, noun, key, name, row, citations) for name, row in rows.items()}


def _row(
    row_type: Any, noun: str, key: str, name: str, row: Any, citations: Mapping[str, str]
) -> Any:
    what = f"{noun} {name!r}"
    if "name" in _table(what, row, f"write its fields below [{key}.{name}]"):
        raise UserError(f"{what}: remove its field name: [{key}.{name}] is what names it")
    values: dict[str, Any] = {"name": name} | row
    fields = {f.name: f.type for f in dataclasses.fields(row_type)}
    if missing := sorted(fields.keys() - values.keys()):
        raise UserError(f"{what}: fields missing: {', '.join(missing)}: add them")
    if unknown := sorted(values.keys() - fields.keys()):
        raise UserError(
            f"{what}: fields unknown: {', '.join(unknown)}: use {', '.join(fields)} only"
        )
    for field_name, kind in fields.items():
        values[field_name] = _checked(what, field_name, kind, values[field_name])
    _require_cited(what, fields.keys(), values["sources"], citations)
    values["sources"] = {field: citations[cited] for field, cited in values["sources"].items()}
    return row_type(**values)


def _require_cited(
    what: str, fields: Set[str], cited: Mapping[str, str], citations: Mapping[str, str]
) -> None:
    if bare := sorted(fields - set(UNSOURCED) - cited.keys()):
        raise UserError(f"{what}: name the source of {', '.join(bare)} in its sources table")
    if stray := sorted(cited.keys() - fields):
        raise UserError(f"{what}: sources of no field: {', '.join(stray)}: remove them")
    if unknown := sorted(set(cited.values()) - citations.keys()):
        raise UserError(f"{what}: add {', '.join(unknown)} to [sources]")


def _checked(what: str, key: str, kind: Any, value: Any) -> Any:
    """Return the value of a field, in the type that the field has."""
    if kind in (int, float):
        return _number(what, key, kind, value)
    if key == "sources":
        return _citations(f"{what}: sources", value)
    if key == "device_kinds":
        return _device_kinds(what, value)
    if not isinstance(value, str):
        raise UserError(f"{what}: {key} must be a string, got {value!r}: put it in quotes")
    if key == "compute_capability" and not re.fullmatch(r"[0-9]+\.[0-9]+", value):
        raise UserError(f'{what}: {key} must be a version such as "9.0", got {value!r}')
    return value


def _number(what: str, key: str, kind: type, value: Any) -> float | int:
    of_type = isinstance(value, (int, kind)) and not isinstance(value, bool)
    # Integers of TOML have no bound; this one is the largest float.
    if not of_type or not 0 < value <= sys.float_info.max:
        raise UserError(
            f"{what}: {key} must be a positive {kind.__name__}, got {value!r}: write a finite one"
        )
    return kind(value)


def _device_kinds(what: str, value: Any) -> tuple[str, ...]:
    # XLA's text format quotes them.
    fine = isinstance(value, list) and all(
        isinstance(kind, str) and kind and kind.isprintable() and not set(kind) & set("\"'\\")
        for kind in value
    )
    if not fine or not value:
        raise UserError(
            f"{what}: device_kinds must be a list of one or more strings without quotes and "
            f"backslashes in them, got {value!r}: write what JAX reports as device_kind"
        )
    return tuple(value)


def _citations(what: str, value: Any) -> dict[str, str]:
    for key, text in _table(what, value, 'write lines such as key = "where it is from"').items():
        if not isinstance(text, str):
            raise UserError(f"{what}: {key} must be a string, got {text!r}: put it in quotes")
    return value


def _table(what: str, value: Any, remedy: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a table, got {value!r}: {remedy}")
    return value


@functools.cache
def known_gpus() -> Mapping[str, Gpu]:
    """Name -> Gpu of the GPUs that come with the package."""
    return parse_gpus(resources.files("moe_jax.hardware").joinpath("gpus.toml").read_text())


def gpu_by_name(name: str) -> Gpu:
    """Return a GPU of `gpus.toml`.

    Args:
        name: as the file has it, in any case: "h100".

    Raises:
        UserError: there is none of that name; the known ones are listed.
    """
    gpu = known_gpus().get(name.lower())
    if gpu is None:
        raise UserError(f"unknown GPU {name!r}: use one of {', '.join(known_gpus())}")
    return gpu


def gpu_by_device_kind(device_kind: str) -> Gpu | None:
    """Return the GPU behind `jax.Device.device_kind`; None where no peak is known (no MFU)."""
    return next((g for g in known_gpus().values() if device_kind in g.device_kinds), None)
