"""Where metrics go: `metrics.jsonl` always, TensorBoard and Weights & Biases if asked for.

What is in a record is decided by `step_report.py` and the loop. Only process 0 writes; the
terminal is `progress.py`.
"""

import importlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.workdir import METRICS, TENSORBOARD, WANDB_ID

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
INSTALL = "pip install 'moe-jax[track]'"

log = logging.getLogger(__name__)


class MissingWriter(UserError):
    """A writer of `metrics.writers` is not installed."""


class Writer(Protocol):
    """One destination of records."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one step, `record["step"]`."""
        ...

    def close(self) -> None:
        """Flush what is still to be written."""
        ...


class MetricsWriters:
    """Writes each record to every destination; on processes other than 0, to none.

    The first record says where this run begins: what an earlier attempt left of that step and
    later ones is dropped, as this run goes through them again.

    Args:
        workdir: directory of the run; created if need be.
        config: `metrics.writers` names the destinations beside the file.
        is_main: whether this is process 0.

    Raises:
        MissingWriter: names the package and how to install it.
    """

    def __init__(self, workdir: str | Path, config: Config, is_main: bool) -> None:
        self._workdir, self._config, self._is_main = Path(workdir), config, is_main
        self._writers: list[Writer] = []
        self._modules: dict[str, Any] = {}
        if is_main:
            self._workdir.mkdir(parents=True, exist_ok=True)
            # Now, not at the first record: before anything compiles.
            self._modules = {name: _require(name) for name in config.metrics.writers}

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Write values that are numbers, strings, None or lists of them.

        Args:
            step: steps taken.
            record: the step's values by name.

        Raises:
            UserError: at the first record: `metrics.jsonl` holds something else than metrics.
        """
        if not self._is_main:
            return
        if not self._writers:
            self._open(step)
        record = plain({"step": step} | dict(record))
        for writer in self._writers:
            writer.write(record)

    def _open(self, step: int) -> None:
        self._writers.append(_JsonLines(self._workdir / METRICS, step))
        for name, module in self._modules.items():
            build = {"tensorboard": _TensorBoard, "wandb": _WandB}[name]
            self._writers.append(build(module, self._workdir, self._config, step))

    def close(self) -> None:
        """Flush and close every destination. Closing twice is harmless."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _JsonLines:
    """One JSON object per line, handed to the system as soon as it is written."""

    def __init__(self, path: Path, first_step: int) -> None:
        if path.exists():
            _drop_from(path, first_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    def __init__(self, module: Any, workdir: Path, config: Config, first_step: int) -> None:
        # purge_step hides what an abandoned attempt wrote from that step on.
        self._writer = module.SummaryWriter(str(workdir / TENSORBOARD), purge_step=first_step)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record):
            self._writer.add_scalar(name.replace(".", "/"), value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """One W&B run per workdir; its id is kept in `wandb_id.txt`.

    W&B keeps what an abandoned attempt logged: it has no way to take back a step.
    """

    def __init__(self, module: Any, workdir: Path, config: Config, first_step: int) -> None:
        known = workdir / WANDB_ID
        resumed = first_step > 1 and known.exists()
        self._run = module.init(
            project=config.metrics.project,
            name=config.name,
            config=config.model_dump(mode="json"),
            dir=str(workdir),
            id=known.read_text(encoding="utf-8").strip() if resumed else None,
            resume="allow" if resumed else None,
        )
        known.write_text(self._run.id + "\n", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        self._run.log(dict(scalars(record)), step=record["step"])

    def close(self) -> None:
        self._run.finish()


def plain(value: Any) -> Any:
    """Return what JSON can hold: NumPy scalars and arrays converted, non-finite floats as None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record but its step; lists as "name.00", "name.01", ..."""
    for name, value in record.items():
        items = [(name, value)]
        if isinstance(value, list):
            items = [(f"{name}.{i:02}", item) for i, item in enumerate(value)]
        for key, item in items:
            if isinstance(item, int | float) and key != "step":
                yield key, item


def _drop_from(path: Path, step: int) -> None:
    """Rewrite the file without records of `step` and later ones; all or nothing.

    A last line without its end is what a killed process was writing; it is dropped too.

    Args:
        path: of records in the order of their steps.
        step: the first that this run writes again.
    """
    part = path.with_name(path.name + ".part")
    try:
        with path.open("rb") as old, part.open("wb") as new:
            new.writelines(_kept(old, path, step))
            new.flush()
            os.fsync(new.fileno())
        if part.stat().st_size < path.stat().st_size:
            log.info("%s: continuing at step %d, later records are dropped", path, step)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _kept(lines: Iterable[bytes], path: Path, step: int) -> Iterator[bytes]:
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n") and _step_of(line, path, number) < step:
            yield line


def _step_of(line: bytes, path: Path, number: int) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number} is no record with a step: {line[:80]!r}; remove the line, or "
            "move the file away to start a new one"
        ) from error


def _require(writer: str) -> Any:
    package = _PACKAGES[writer]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingWriter(
            f"metrics.writers holds {writer!r}, which needs {package}: {INSTALL}, or remove "
            f"{writer!r} from metrics.writers"
        ) from error
