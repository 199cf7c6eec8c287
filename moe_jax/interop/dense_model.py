"""A dense model, opened to be upcycled: its config, and its weights slab by slab.

What becomes of them is `upcycle.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe_jax.checkpoint import locate, read_contents
from moe_jax.checkpoint.streamed import SlabReader
from moe_jax.config import Config, parse_config
from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.convert import state_path
from moe_jax.interop.files.directory import CONFIG
from moe_jax.interop.files.tokenizer_files import is_hf_directory, tokenizer_files
from moe_jax.interop.open import ImportDType, open_model
from moe_jax.interop.tensors.match import LazyTensor, check_matches
from moe_jax.interop.tensors.pieces import pieces, skipped
from moe_jax.model.pattern import layer_runs
from moe_jax.model.skeleton import Skeleton

#: A parameter's name and the row of a layer in it, () outside of layers.
Slab = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class DenseModel:
    """A model without experts.

    Attributes:
        config: of the model.
        read: a slab by the parameter's name and its row, as stored.
        files: that turn text into tokens, to be kept with the weights.
    """

    config: Config
    read: Callable[[str, tuple[int, ...]], np.ndarray]
    files: tuple[Path, ...]


def open_dense(path: Path, step: int | None, dtype: ImportDType) -> DenseModel:
    """Open a Hugging Face directory or a working directory of ours.

    Args:
        path: the directory.
        step: checkpoint of a working directory; None for the newest good one.
        dtype: of a Hugging Face directory's parameters; see `open_model`.

    Raises:
        UserError: it cannot be read, or its model has experts already.
    """
    found = _open_hf(path, step, dtype) if is_hf_directory(path) else _open_run(path, step, dtype)
    if "moe" in found.config.model.layers:
        raise UserError(f"{path} has experts already: upcycling starts from a dense model")
    return found


def _open_hf(path: Path, step: int | None, dtype: ImportDType) -> DenseModel:
    if step is not None:
        raise UserError(f"{path} is a Hugging Face directory: it has no step {step}")
    model = open_model(path, [], dtype)
    found = pieces(model.config, model.family)
    check_matches(model.source, found, skipped(model.config, model.family))
    by_slab = {(piece.ours, piece.index): piece for piece in found}

    def read(name: str, row: tuple[int, ...]) -> np.ndarray:
        piece = by_slab[name, row]
        whole = tuple(slice(0, size) for size in piece.layout.ours_shape)
        return piece.layout.read(LazyTensor(model.source, piece.theirs), whole)

    # config.json names ids that end a text where generation_config.json is missing.
    files = (path / CONFIG, *model.directory.tokenizer_files())
    return DenseModel(model.config, read, files)


def _open_run(path: Path, step: int | None, dtype: ImportDType) -> DenseModel:
    if dtype != "auto":
        raise UserError(f"{path} is a working directory: its dtype stays, leave {dtype} out")
    root, named = locate(path)
    contents = read_contents(root, named if step is None else step, "digests")
    if contents.faults:
        raise UserError(f"{contents.path} is damaged: {'; '.join(contents.faults)}")
    if "config" not in contents.info:
        raise UserError(f"{contents.path} was saved without a config, so its model is not known")
    config = parse_config(contents.info["config"])
    skeleton, reader = Skeleton(config), SlabReader(contents)
    return DenseModel(
        config,
        lambda name, row: reader.read(state_path(skeleton, name), row),
        tuple(tokenizer_files(root.parent)),
    )


def slab_of(model: ModelConfig, layer: int, name: str) -> Slab:
    """Return where the parameter of that name in a block lies for a layer of the model."""
    for stack, run in enumerate(layer_runs(model)):
        size = len(run.unit) * run.repeats
        if layer < size:
            row, place = divmod(layer, len(run.unit))
            return f"stacks.{stack}.unit.blocks.{place}.{name}", (row,)
        layer -= size
    raise AssertionError("a layer of another model")
