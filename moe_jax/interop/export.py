"""A checkpoint of ours to a Hugging Face directory that `transformers` loads, tensor by tensor.

Memory holds one tensor of theirs and the slab of ours that is on its way there, whatever the size
of the model; no devices. The way in is `convert.py`; the command is `cli/convert.py`.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from moe_jax.checkpoint import Contents, locate, read_contents
from moe_jax.checkpoint.streamed import SlabReader
from moe_jax.config import Config, parse_config
from moe_jax.data.tokenizers import load_tokenizer
from moe_jax.errors import UserError
from moe_jax.interop.config_json import family_of, to_config_json
from moe_jax.interop.convert import Report, state_path
from moe_jax.interop.files.directory import CONFIG
from moe_jax.interop.files.staging import flush, refuse_existing, staged
from moe_jax.interop.files.tokenizer_files import TOKENIZER_JSON, copy_files, tokenizer_files
from moe_jax.interop.files.writer import ShardWriter, TensorSpec
from moe_jax.interop.open import ORIGIN
from moe_jax.interop.tensors.pieces import Piece, pieces
from moe_jax.model.skeleton import Skeleton

ExportDType = Literal["auto", "float32", "bfloat16", "float16"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes:
        contents: the checkpoint.
        config: its model.
        config_json: the model as `transformers` describes it.
        groups: pieces of ours by the tensor of theirs that they make up.
        specs: those tensors, in the order of the shards.
    """

    contents: Contents
    config: Config
    config_json: dict[str, Any]
    groups: Mapping[str, Sequence[Piece]]
    specs: Sequence[TensorSpec]


def export_hf(
    checkpoint: Path, out: Path, step: int | None, dtype: ExportDType, most: int, report: Report
) -> None:
    """Convert a checkpoint.

    Args:
        checkpoint: a working directory, its checkpoints/, or the directory of one step.
        out: made: config.json, safetensors, and the tokenizer files that the run has.
        step: which checkpoint; None for the one that `checkpoint` names, or the newest good one.
        dtype: of the parameters; "auto" is that of the files they were imported from, bfloat16 if
            they were imported in that, or else what they are stored in.
        most: bytes of tensors in a shard.
        report: is told of progress.

    Raises:
        UserError: `out` exists, the checkpoint is damaged, or no family of models has all that
            the model has; nothing is left behind.
    """
    refuse_existing(out)
    root, named = locate(checkpoint)
    if named is not None and step not in (None, named):
        raise UserError(f"--step {step} and {checkpoint}, which is that of step {named}: give one")
    contents = read_contents(root, named if step is None else step, "digests")
    if contents.faults:
        raise UserError(
            f"{contents.path} is damaged: {'; '.join(contents.faults)}; choose another --step, or "
            "restore it from a copy"
        )
    export = plan_export(contents, dtype)
    with staged(out) as folder:
        text = json.dumps(export.config_json, indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
        copy_files(_tokenizer_of(root.parent, export.config), folder)
        with ShardWriter(folder, export.specs, most) as writer:
            _write(export, writer, report)
        flush(folder)


def plan_export(contents: Contents, dtype: ExportDType) -> Export:
    """Plan what a checkpoint becomes; reads no arrays.

    Args:
        contents: the checkpoint.
        dtype: of the parameters; see `export_hf`.

    Raises:
        UserError: it has no config, lacks arrays, or fits no family.
    """
    if "config" not in contents.info:
        raise UserError(f"{contents.path} was saved without a config, so its model is not known")
    config = parse_config(contents.info["config"])
    origin = contents.info.get(ORIGIN)
    described = to_config_json(config, source=origin["config"] if origin else None)
    groups: dict[str, list[Piece]] = {}
    for piece in pieces(config, family_of(described)):
        groups.setdefault(piece.theirs, []).append(piece)
    specs = _specs(contents, Skeleton(config), groups, dtype, origin)
    return Export(contents, config, _completed(described, config, origin, specs), groups, specs)


def _specs(
    contents: Contents,
    skeleton: Skeleton,
    groups: Mapping[str, Sequence[Piece]],
    asked: ExportDType,
    origin: Mapping[str, Any] | None,
) -> list[TensorSpec]:
    stored = {array.name: array.dtype for array in contents.arrays}
    missing = [name for name in skeleton.variables if state_path(skeleton, name) not in stored]
    if missing:
        raise UserError(f"{contents.path} lacks {', '.join(missing)} of the model it describes")
    specs = []
    for theirs in sorted(groups, key=_reading_order):
        piece = groups[theirs][0]
        held = sum(math.prod(part.layout.ours_shape) for part in groups[theirs])
        assert held == math.prod(piece.layout.theirs_shape), f"{theirs} is not all of our pieces"
        own = stored[state_path(skeleton, piece.ours)]
        is_buffer = skeleton.variables[piece.ours].is_buffer
        dtype = jnp.dtype(_dtype(theirs, own, is_buffer, asked, origin))
        specs.append(TensorSpec(theirs, piece.layout.theirs_shape, dtype))
    return specs


def _dtype(
    theirs: str, stored: str, is_buffer: bool, asked: ExportDType, origin: Mapping[str, Any] | None
) -> str:
    """Buffers are not what is asked for: rounding a selection bias changes who is chosen."""
    if asked != "auto" and not is_buffer:
        return asked
    if origin is None:
        return stored
    # Only a wish stores a model of another dtype in bfloat16: see `open_model`.
    if stored == "bfloat16" and origin["dtype"] != "bfloat16" and not is_buffer:
        return stored
    return origin["other_dtypes"].get(theirs, origin["dtype"])


def _completed(
    described: dict[str, Any],
    config: Config,
    origin: Mapping[str, Any] | None,
    specs: Sequence[TensorSpec],
) -> dict[str, Any]:
    """Add to config.json what the table of families does not know."""
    sizes: dict[str, int] = {}
    for spec in specs:
        sizes[spec.dtype.name] = sizes.get(spec.dtype.name, 0) + spec.size
    # Older versions of transformers know the first name only.
    key = "dtype" if "dtype" in described else "torch_dtype"
    completed = described | {key: max(sizes, key=lambda name: sizes[name])}
    if origin is None:
        # Absent fields mean the ids of the family's first model.
        completed |= {"bos_token_id": None, "eos_token_id": _end_id(config), "pad_token_id": None}
    return completed


def _end_id(config: Config) -> int | None:
    name = config.data.tokenizer
    return load_tokenizer(config.data).end_id if name == "bytes" or Path(name).is_file() else None


def _tokenizer_of(workdir: Path, config: Config) -> list[Path]:
    """Return what lies beside an imported model, or else the tokenizer that a run trained with."""
    if found := tokenizer_files(workdir):
        return found
    path = Path(config.data.tokenizer)
    if path.name == TOKENIZER_JSON and path.is_file():
        return [path]
    logger.warning(
        "no tokenizer is exported: none lies beside the checkpoint, and data.tokenizer = %r",
        config.data.tokenizer,
    )
    return []


def _write(export: Export, writer: ShardWriter, report: Report) -> None:
    reader, skeleton = SlabReader(export.contents), Skeleton(export.config)
    done, total = 0, sum(spec.size for spec in export.specs)
    specs = {spec.name: spec for spec in export.specs}
    # In the order of our arrays: slabs that share a stored chunk follow each other.
    for spec, group in ((specs[theirs], group) for theirs, group in export.groups.items()):
        tensor = np.empty(spec.shape, spec.dtype)
        for piece in group:
            slab = reader.read(state_path(skeleton, piece.ours), piece.index)
            piece.layout.to_theirs(_cast(slab, spec), tensor)
        writer.write(spec.name, tensor)
        done += spec.size
        report(done, total)


def _cast(slab: np.ndarray, spec: TensorSpec) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = slab.astype(spec.dtype, copy=False)
    if spec.dtype == np.float16 and np.isinf(cast).any() and not np.isinf(slab).any():
        raise UserError(f"{spec.name} has values beyond float16's range: choose --dtype bfloat16")
    return cast


def _reading_order(name: str) -> list[tuple[bool, int, str]]:
    """Layer 2 before layer 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
