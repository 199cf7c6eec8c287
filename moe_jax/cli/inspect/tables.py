"""The tables of `moe-jax inspect`. What is read, and when, is `verb.py`."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from moe_jax.axes import AXES
from moe_jax.checkpoint import Contents, Listing, StoredArray
from moe_jax.cli.shared.tables import binary, headed_table, key_value_table
from moe_jax.config import Config
from moe_jax.interop.open import ORIGIN

#: First key of an array's name -> what it is; all else counts steps.
GROUPS = {"params": "parameters", "opt_state": "optimiser state", "buffers": "buffers"}
COUNTERS = "counters"


def group_of(array: StoredArray) -> str:
    """Return what an array belongs to: parameters, optimiser state, buffers or counters."""
    return GROUPS.get(array.name.split("/")[0], COUNTERS)


def step_table(listing: Listing, shown: int) -> Table:
    """Return every checkpoint of a directory, and what is there besides good ones."""
    table = headed_table("Checkpoints", "step", "state")
    for step in listing.steps:
        table.add_row(str(step), "good, shown below" if step == shown else "good")
    for entry in listing.rejected:
        table.add_row(Path(entry.path).name, f"no checkpoint: {entry.reason}")
    return table


def checkpoint_table(contents: Contents, config: Config | None, problem: str) -> Table:
    """Return the facts of one checkpoint as a table of two columns.

    Args:
        contents: the checkpoint.
        config: what was saved with it, where that can be read.
        problem: why it cannot.
    """
    table = key_value_table(f"Checkpoint of step {contents.step}")
    table.add_row("path", str(contents.path))
    facts = [("config", problem)] if config is None else list(_facts(config, contents.step))
    for name, value in facts:
        table.add_row(name, value)
    if origin := contents.info.get(ORIGIN):
        imported = f"a Hugging Face model: {origin['config']['model_type']} in {origin['dtype']}"
        table.add_row("weights from", imported)
    table.add_row("placement", _placement(contents))
    versions = contents.info.get("versions", {})
    table.add_row("written by", ", ".join(f"{n} {v}" for n, v in versions.items()) or "not noted")
    size = sum(array.size for array in contents.arrays)
    table.add_row(
        "on the disk",
        f"{contents.files} files, {binary(contents.file_bytes)}, for {len(contents.arrays)} arrays "
        f"of {binary(size)}",
    )
    return table


def group_table(arrays: Sequence[StoredArray]) -> Table:
    """Return arrays, elements and bytes of parameters, optimiser state, buffers and counters."""
    table = headed_table("Totals", "group", "arrays", "elements", "bytes")
    for group in (*GROUPS.values(), COUNTERS):
        members = [array for array in arrays if group_of(array) == group]
        elements = sum(math.prod(array.shape) for array in members)
        size = sum(array.size for array in members)
        table.add_row(group, str(len(members)), f"{elements:,}", binary(size))
    return table


def array_table(arrays: Sequence[StoredArray]) -> Table:
    """Return every array: name, shape, dtype, size, split when saved, pieces on the disk."""
    headings = ("name", "shape", "dtype", "size", "split when saved", "stored as")
    table = headed_table("Arrays", *headings)
    table.columns[0].no_wrap = True
    for array in arrays:
        table.add_row(
            array.name,
            _times(array.shape),
            array.dtype,
            binary(array.size),
            _split(array),
            "not noted" if array.chunk is None else _pieces(array),
        )
    return table


def _facts(config: Config, step: int) -> Iterator[tuple[str, str]]:
    model, train = config.model, config.train
    yield "config", f"{config.name} (--config prints it)"
    yield "step", f"{step} of {train.steps}"
    sequence = step * train.global_batch
    yield "data position", f"seed {config.seed}, step {step}: sequence {sequence:,} comes next"
    kinds = " and ".join(sorted(set(model.layers)))
    yield "model", f"{model.num_layers} layers ({kinds}), d_model {model.d_model}"
    if "moe" in model.layers:
        yield "experts", f"{model.moe.num_experts} per layer, top-{model.moe.top_k}"
    yield "optimiser", f"{config.optimizer.name}, state in {config.precision.optimizer_state}"
    sizes = {axis: getattr(config.mesh, axis) for axis in AXES}
    rules = ", ".join(f"{name} {value}" for name, value in config.sharding.model_dump().items())
    yield "mesh", f"{_mesh(sizes)}; sharding: {rules}"
    if config.mesh.pipe > 1:
        pipeline = config.pipeline
        yield (
            "pipeline",
            f"{config.mesh.pipe} stages x {pipeline.virtual_stages} virtual, "
            f"{pipeline.microbatches} microbatches",
        )


def _placement(contents: Contents) -> str:
    meshes = {tuple(array.mesh.items()) for array in contents.arrays}
    where = "; ".join(sorted(_mesh(dict(mesh)) for mesh in meshes if mesh)) or "not noted"
    return f"saved from {where}, by {contents.writers or 'an unknown number of'} process(es)"


def _mesh(sizes: dict[str, int]) -> str:
    used = [f"{axis} {size}" for axis, size in sizes.items() if size > 1]
    return f"{' x '.join(used) or 'all axes 1'}: {math.prod(sizes.values())} devices"


def _split(array: StoredArray) -> str:
    if not array.mesh:
        return "not noted"
    parts = []
    for dim, names in enumerate(array.spec):
        used = [name for name in names if array.mesh[name] > 1]
        if used:
            count = math.prod(array.mesh[name] for name in used)
            parts.append(f"dim {dim} / {count} ({' x '.join(used)})")
    return ", ".join(parts) or "whole everywhere"


def _pieces(array: StoredArray) -> str:
    assert array.chunk is not None
    return "1 piece" if array.chunks == 1 else f"{array.chunks} pieces of {_times(array.chunk)}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
