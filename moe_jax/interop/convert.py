"""A Hugging Face directory to a working directory of ours, chunk by chunk, without devices.

Memory holds a few chunks, whatever the size of the model. The way back is `export.py`; weights
straight onto a mesh are `load.py`; the command is `cli/convert.py`.
"""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from moe_jax.checkpoint.streamed import ArrayPlan, StreamedWriter
from moe_jax.config import Config, dump_config, override, write_config
from moe_jax.interop.files.directory import CONFIG
from moe_jax.interop.files.staging import refuse_existing, staged
from moe_jax.interop.files.tokenizer_files import TOKENIZER_JSON, copy_files
from moe_jax.interop.open import ORIGIN, ImportDType, ImportedModel, open_model
from moe_jax.interop.tensors.match import LazyTensor, check_matches
from moe_jax.interop.tensors.pieces import Piece, pieces, skipped
from moe_jax.interop.tensors.tiles import copy_tiled
from moe_jax.model.skeleton import Skeleton
from moe_jax.workdir import CHECKPOINTS, TOKENIZER

#: Told bytes done and bytes in all.
Report = Callable[[int, int], None]


def from_hf(
    path: Path, out: Path, overrides: Sequence[str], dtype: ImportDType, report: Report
) -> None:
    """Convert a Hugging Face directory.

    Args:
        path: the directory.
        out: made: config.toml, checkpoints/ with the weights as step 0, tokenizer/.
        overrides: values of the config that is written, such as "mesh.expert=8".
        dtype: of the parameters; see `open_model`.
        report: is told of progress.

    Raises:
        UserError: `out` exists, or the directory cannot be converted; nothing is left behind.
    """
    refuse_existing(out)
    model = open_model(path, overrides, dtype)
    found = pieces(model.config, model.family)
    check_matches(model.source, found, skipped(model.config, model.family))
    with staged(out) as folder:
        # config.json names ids that end a text where generation_config.json is missing.
        files = [path / CONFIG, *model.directory.tokenizer_files()]
        copy_files(files, folder / TOKENIZER)
        config = _with_own_tokenizer(model, out)
        write_config(config, folder)
        info = {
            "config": dump_config(config),
            ORIGIN: model.origin(),
            "versions": {"moe-jax": importlib.metadata.version("moe-jax")},
        }
        plans = _plans(config, found)
        with StreamedWriter(folder / CHECKPOINTS, 0, info, plans) as writer:
            _write(model, found, plans, writer, report)


def state_path(skeleton: Skeleton, name: str) -> str:
    """Return the path of a parameter or buffer in the state of a checkpoint."""
    return f"{'buffers' if skeleton.variables[name].is_buffer else 'params'}/{name}"


def _with_own_tokenizer(model: ImportedModel, out: Path) -> Config:
    """The config names the copy, unless another tokenizer was asked for."""
    if model.config.data.tokenizer != str(model.directory.path.absolute() / TOKENIZER_JSON):
        return model.config
    return override(model.config, [f"data.tokenizer={out.absolute() / TOKENIZER / TOKENIZER_JSON}"])


def _plans(config: Config, found: Sequence[Piece]) -> dict[str, ArrayPlan]:
    skeleton = Skeleton(config)
    lead = {piece.ours: len(piece.index) for piece in found}
    return {
        state_path(skeleton, name): ArrayPlan(info.shape, np.dtype(info.dtype).name, lead[name])
        for name, info in skeleton.variables.items()
    }


def _write(
    model: ImportedModel,
    found: Sequence[Piece],
    plans: Mapping[str, ArrayPlan],
    writer: StreamedWriter,
    report: Report,
) -> None:
    skeleton, done = Skeleton(model.config), 0
    total = sum(plan.size for plan in plans.values())
    for piece in found:
        path = state_path(skeleton, piece.ours)
        plan, tensor = plans[path], LazyTensor(model.source, piece.theirs)
        lead = len(piece.index)
        for cell in plan.cells(piece.index):
            part = piece.layout.read(tensor, cell[lead:])
            values = np.empty((1,) * lead + part.shape, plan.numpy_dtype)
            copy_tiled(values.reshape(part.shape), part)
            writer.write(path, cell, values)
            done += values.nbytes
            report(done, total)
