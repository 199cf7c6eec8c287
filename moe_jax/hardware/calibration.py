"""Calibrations as data: how fast one kind of GPU was measured to be, read and written as TOML.

Taking the measurements is `bench/`; what a chip can do on paper is `gpus.py`. Calibrations
recorded by us are `calibrations/NAME.toml`. Everything here is *measured*. No JAX here.
"""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from moe_jax.errors import UserError

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Positive = Annotated[float, Field(gt=0)]
Date = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Suite = Literal[
    "matmul",
    "matmul_grouped",
    "attention_forward",
    "attention_backward",
    "gather",
    "memory",
    "program",
]
CollectiveKind = Literal["all-to-all", "all-gather", "all-reduce", "reduce-scatter"]


@dataclass(frozen=True)
class Measurement:
    """One thing that was timed; what the rates of a calibration rest on."""

    __pydantic_config__: ClassVar = _STRICT

    suite: Suite
    #: Sizes included: "expert up 25000 x 4096 x 16384".
    name: str
    #: Median of `repeats`, and the distance between their quartiles.
    seconds: Positive
    spread_s: Annotated[float, Field(ge=0)]
    repeats: Annotated[int, Field(ge=1)]
    #: What was done in `seconds`: FLOPs, or bytes read plus bytes written.
    work: Positive
    unit: Literal["flop", "byte"]
    #: What the figure leaves out, such as "collectives skipped: compute only".
    note: str = ""

    @property
    def rate(self) -> float:
        """Return FLOP/s or bytes/s."""
        return self.work / self.seconds


@dataclass(frozen=True)
class CollectiveTime:
    """One collective over all of `devices`, spread evenly over `hosts`."""

    __pydantic_config__: ClassVar = _STRICT

    kind: CollectiveKind
    devices: Annotated[int, Field(ge=2)]
    hosts: Annotated[int, Field(ge=1)]
    #: The operand of one device: its own share of an all-to-all included; the shard that an
    #: all-gather begins with; the whole array of an all-reduce or a reduce-scatter.
    bytes: Annotated[int, Field(ge=1)]
    seconds: Positive


@dataclass(frozen=True)
class Calibration:
    """Measured speeds of one kind of GPU, as the operations of our own programs meet them.

    Attributes:
        gpu: name in `gpus.toml`, or JAX's device kind of a device that is not there.
        hardware: what was measured: devices, hosts, links, driver.
        date: of the measurement, YYYY-MM-DD.
        versions: package -> version.
        matmul_flops_per_s: bfloat16 products of one layer; all their FLOPs over all their seconds.
        attention_forward_flops_per_s: causal model FLOPs (2 x 2 h m c per token, as
            `model/flops.py` counts them) per second of a forward call.
        attention_backward_flops_per_s: twice those FLOPs (no recomputation counted) per second
            of a backward call alone.
        gather_bytes_per_s: permuting tokens into rows and back; bytes read plus bytes written.
        memory_bytes_per_s: elementwise work; bytes read plus bytes written.
        grouped_flops_per_s: the kernels of `moe/grouped/`, the rows' own FLOPs; None where they do
            not run (they are Hopper's) or were not measured.
        collectives: may be empty (one device).
        measurements: what the rates were computed from, and whole programs.
    """

    __pydantic_config__: ClassVar = _STRICT

    gpu: str
    hardware: str
    date: Date
    versions: Mapping[str, str]
    matmul_flops_per_s: Positive
    attention_forward_flops_per_s: Positive
    attention_backward_flops_per_s: Positive
    gather_bytes_per_s: Positive
    memory_bytes_per_s: Positive
    grouped_flops_per_s: Positive | None = None
    collectives: tuple[CollectiveTime, ...] = ()
    measurements: tuple[Measurement, ...] = ()


_ADAPTER = TypeAdapter(Calibration)


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration.

    Args:
        path: a file that `moe-jax bench calibrate` or `save_calibration` wrote.

    Raises:
        UserError: the file cannot be read, is not TOML, lacks a field, has an unknown one, or one
            of a wrong type or range; every such field is named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the calibration {path}: {error}") from error
    return parse_calibration(text, origin=str(path))


def parse_calibration(text: str, *, origin: str = "the calibration") -> Calibration:
    """Read TOML text, like `load_calibration`; `origin` names it in errors."""
    try:
        raw = tomllib.loads(text)
    # The last is what the parser raises at values nested too deeply.
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{origin} is not valid TOML: {error}") from error
    try:
        # Through JSON: strict mode takes arrays as tuples there, and only there. An unquoted
        # date is the same date.
        return _ADAPTER.validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        problems = (_describe(details) for details in error.errors(include_url=False))
        raise UserError(f"{origin}: " + "; ".join(problems)) from None


def dump_calibration(calibration: Calibration) -> str:
    """Write TOML text: parsing it gives an equal calibration."""
    values = dataclasses.asdict(calibration)
    return tomli_w.dumps({key: value for key, value in values.items() if value is not None})


def save_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a file that `load_calibration` reads."""
    Path(path).write_text(dump_calibration(calibration), encoding="utf-8")


def recorded(gpu_name: str) -> Calibration | None:
    """Return our own measurement of a GPU of `gpus.toml`, or None where we have none."""
    file = resources.files("moe_jax.hardware").joinpath("calibrations", f"{gpu_name.lower()}.toml")
    if not file.is_file():
        return None
    return parse_calibration(file.read_text(encoding="utf-8"), origin=file.name)


def _describe(details: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in details["loc"]) or "the file"
    if details["type"] == "missing":
        return f"{field} is missing"
    if details["type"] == "unexpected_keyword_argument":
        known = ", ".join(f.name for f in dataclasses.fields(Calibration))
        return f"{field} is unknown: the fields are {known}"
    return f"{field} = {details['input']!r}: {details['msg'].replace('Input should', 'must')}"
