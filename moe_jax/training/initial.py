"""Weights that a run starts from: those of a Hugging Face directory, or of another run.

Only parameters and buffers: optimiser, schedule, step and data begin anew. Going on with a run is
`resume.py`.
"""

import filecmp
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from moe_jax.checkpoint import Checkpoints, locate
from moe_jax.checkpoint.agree import gather
from moe_jax.config import Config, override, parse_config
from moe_jax.config.model_schema import ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.files.tokenizer_files import (
    TOKENIZER_JSON,
    copy_files,
    is_hf_directory,
    tokenizer_files,
)
from moe_jax.interop.load import load_weights
from moe_jax.interop.open import ORIGIN, open_model
from moe_jax.interop.same_model import differences
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Weights
from moe_jax.workdir import TOKENIZER

Result = TypeVar("Result")


@dataclass(frozen=True)
class InitialWeights:
    """What a run starts from.

    Attributes:
        weights: on the run's mesh, in its dtype.
        origin: what a checkpoint's `info` keeps of a Hugging Face directory; None without one.
        files: tokenizer files that belong to the weights.
        text: one line that says what they are.
    """

    weights: Weights
    origin: dict[str, Any] | None
    files: list[Path]
    text: str


def read_initial(path: Path, config: Config, mesh: Mesh) -> InitialWeights:
    """Read the weights that `--init-from` names. A collective.

    Args:
        path: a Hugging Face directory, or a working directory (or checkpoint) of ours.
        config: the run that starts.
        mesh: its mesh.

    Raises:
        UserError: the weights cannot be read, or are of another model than the config's; names
            the keys that differ.
    """
    if not path.is_dir():
        raise UserError(f"--init-from {path} is not a directory: give one with weights")
    return _from_hf(path, config, mesh) if is_hf_directory(path) else _from_run(path, config, mesh)


def keep_tokenizer(files: list[Path], config: Config, workdir: Path) -> str:
    """Keep the tokenizer of initial weights beside the run, if it trains with that.

    Args:
        files: tokenizer files that belong to the weights; may be none.
        config: names the tokenizer of the run.
        workdir: of the run.

    Returns:
        A warning if the run trains with another tokenizer, else nothing.
    """
    named = [file for file in files if file.name == TOKENIZER_JSON]
    own = Path(config.data.tokenizer)
    if not named:
        return ""
    if not own.is_file() or not filecmp.cmp(own, named[0], shallow=False):
        return (
            f"data.tokenizer = {config.data.tokenizer!r} is not the tokenizer of the initial "
            f"weights, {named[0]}: their embeddings mean other tokens"
        )
    if not (workdir / TOKENIZER).exists():
        copy_files(files, workdir / TOKENIZER)
    return ""


def _from_hf(path: Path, config: Config, mesh: Mesh) -> InitialWeights:
    def read() -> InitialWeights:
        model = open_model(path)
        _require_same_model(path, model.config.model, config.model)
        weights = load_weights(model.source, config, model.family, mesh)
        files = model.directory.tokenizer_files()
        text = f"the weights of {path}, family {model.family.name}"
        return InitialWeights(weights, model.origin(), files, text)

    return _all_or_none(read)


def _from_run(path: Path, config: Config, mesh: Mesh) -> InitialWeights:
    root, named = locate(path)
    step = "latest" if named is None else named
    with Checkpoints(root, verify=config.checkpoint.verify) as checkpoints:
        saved = parse_config(checkpoints.info(step)["config"])
        _require_same_model(path, saved.model, config.model)
        stored = override(config, [f"precision.params={saved.precision.params}"])
        wanted = Skeleton(stored).abstract(mesh)
        restored = checkpoints.restore(wanted, step=step, missing="error", extra="ignore")
    assert restored is not None, "missing='error' raises instead"
    final = Skeleton(config).abstract(mesh)
    weights = jax.tree.map(lambda array, like: array.astype(like.dtype), restored.state, final)
    files, origin = tokenizer_files(root.parent), restored.info.get(ORIGIN)
    text = f"the weights of step {restored.step} in {root}"
    return InitialWeights(weights, origin, files, text)


def _require_same_model(path: Path, saved: ModelConfig, wanted: ModelConfig) -> None:
    here, there = differences(wanted, saved), differences(saved, wanted)
    if here:
        raise UserError(
            f"--init-from {path}: its weights are of another model. The config says "
            f"{', '.join(here)}; the weights need {', '.join(there)}: take the model section of "
            "the weights (convert from-hf writes it, inspect --config prints it)"
        )


def _all_or_none(read: Callable[[], Result]) -> Result:
    """Raise in every process if `read` fails in one: the others would wait for it for ever."""
    failure: Exception | None = None
    result = None
    try:
        result = read()
    except Exception as error:  # a defect as well: the others wait
        failure = error
    reports = gather("" if failure is None else str(failure) or type(failure).__name__)
    if not isinstance(failure, UserError | OSError | None):
        raise failure
    if any(reports):
        raise UserError("; ".join(sorted({report for report in reports if report}))) from failure
    assert result is not None, "no failure, yet no result"
    return result
