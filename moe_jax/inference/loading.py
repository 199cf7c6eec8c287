"""From a directory to a model on a mesh: one of Hugging Face, or a working directory of ours.

What the model can be asked is `language_model.py`; what its config becomes is
`inference_config.py`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from moe_jax.checkpoint import Checkpoints
from moe_jax.config import Config, ConfigError, check, override, parse_config
from moe_jax.config.schema import DType
from moe_jax.data.hf_tokenizer import HfTokenizer
from moe_jax.data.tokenizers import Tokenizer, load_tokenizer
from moe_jax.errors import UserError
from moe_jax.inference.inference_config import AnyMesh, choose_mesh, inference_config
from moe_jax.inference.language_model import LanguageModel
from moe_jax.interop.config_json import family_of
from moe_jax.interop.files.tokenizer_files import TOKENIZER_JSON, is_hf_directory
from moe_jax.interop.load import load_weights
from moe_jax.interop.open import ORIGIN, ImportedModel, open_model
from moe_jax.interop.table.setting import Fields
from moe_jax.mesh.build import build_mesh, mesh_shape, prepare_devices, running_devices
from moe_jax.model.weights import Weights
from moe_jax.safe_paths import file_inside, is_named
from moe_jax.session import Session, make_session
from moe_jax.workdir import CHECKPOINTS, CONFIG, TOKENIZER

#: Ends the problems of a mesh, whose remedies are those of a model that is yet to be trained.
FIXED = "the sizes of a pretrained model are fixed: change the mesh, not model.*"


def load(
    path: str | Path,
    *,
    mesh: AnyMesh = None,
    overrides: Iterable[str] = (),
    dtype: DType | None = None,
    step: int | None = None,
    num_processes: int = 1,
) -> LanguageModel:
    """Load a model to be asked.

        model = moe_jax.load("Mixtral-8x7B-Instruct-v0.1", mesh={"expert": 8})

    Args:
        path: a Hugging Face directory, or the working directory of a run or a conversion.
        mesh: axis sizes, or a mesh with our axes. By default that of the config, or where it does
            not suit the devices at hand, experts over as many as divide them, the rest data.
        overrides: values of the config, such as "exchange.transport=all_gather".
        dtype: of parameters and computation; by default as stored.
        step: the checkpoint of a working directory; by default the newest good one.
        num_processes: of the job, each of which makes this call.

    Raises:
        UserError: there is no such model, it is not supported, or it does not fit the mesh.
    """
    path, overrides = Path(path), list(overrides)
    if is_hf_directory(path):
        if step is not None:
            raise UserError(f"{path} is a Hugging Face directory: it has no step {step}")
        imported = _opened(path, overrides, dtype)
        session = _session(imported.config, mesh, overrides, num_processes)
        weights = load_weights(imported.source, session.config, imported.family, session.mesh)
        tokenizer, longest = _imported_tokenizer(imported), _made_for(imported.directory.config)
        return LanguageModel(path.name, session, weights, tokenizer, longest)
    config = _run_config(path, overrides)
    session = _session(config, mesh, overrides, num_processes)
    weights, origin = _restored(path, session, step)
    if dtype is not None:
        session, weights = _cast(session, weights, dtype)
    tokenizer = _run_tokenizer(path, config)
    longest = _run_config(path, ()).data.sequence_length
    if origin is not None:
        longest = max(longest, _made_for(origin["config"]))
    return LanguageModel(path.name, session, weights, tokenizer, longest)


def from_hf(path: str | Path, **options: object) -> LanguageModel:
    """Load a Hugging Face directory.

    Args:
        path: the directory.
        options: those of `load`.

    Raises:
        UserError: it is none, or see `load`.
    """
    if not is_hf_directory(Path(path)):
        raise UserError(f"{path} is no Hugging Face directory: it has no config.json")
    return load(path, **options)  # type: ignore[arg-type]


def _opened(path: Path, overrides: Sequence[str], dtype: DType | None) -> ImportedModel:
    """Open a directory; what is not of the model `_session` checks, by how it infers."""
    model = [assignment for assignment in overrides if assignment.strip().startswith("model.")]
    imported = open_model(path, model, dtype or "auto")
    return dataclasses.replace(imported, config=override(imported.config, overrides))


def _made_for(config_json: Mapping[str, Any]) -> int:
    family = family_of(config_json)
    return Fields(family.name, config_json, family.defaults)["max_position_embeddings"]


def _session(
    config: Config, asked: AnyMesh, overrides: Sequence[str], num_processes: int
) -> Session:
    fixed = any(assignment.strip().startswith("mesh.") for assignment in overrides)
    mesh_config = choose_mesh(config, asked, fixed=fixed)
    try:
        final = inference_config(config, mesh_config)
    except ConfigError as error:
        if not any("mesh." in problem for problem in error.problems):
            raise
        title = f"the configuration {config.name!r} cannot run"
        raise ConfigError(title, [*error.problems, FIXED]) from error
    if isinstance(asked, Mesh):
        platform, mesh = jax.default_backend(), asked
    elif math.prod(mesh_shape(final.mesh)) < running_devices() and jax.process_count() == 1:
        # In a notebook, on some of its devices.
        size = math.prod(mesh_shape(final.mesh))
        platform, mesh = jax.default_backend(), build_mesh(final.mesh, jax.devices()[:size])
    else:
        platform = prepare_devices(final, num_processes)
        mesh = build_mesh(final.mesh)
    tokens = final.data.sequence_length
    return make_session(final, platform, batch_tokens=tokens, mesh=mesh)


def _run_config(path: Path, overrides: Sequence[str]) -> Config:
    if not path.is_dir():
        raise UserError(
            f"{path} is not a directory: give the --workdir of a training run, what moe-jax "
            "convert made, or a Hugging Face directory"
        )
    config = path / CONFIG
    if not config.is_file():
        raise UserError(
            f"{config} is missing, and so is config.json: give the --workdir of a training run, "
            "what moe-jax convert made, or a Hugging Face directory"
        )
    return parse_config(config.read_text(encoding="utf-8"), overrides, origin=str(config))


def _restored(
    path: Path, session: Session, step: int | None
) -> tuple[Weights, Mapping[str, Any] | None]:
    """Return the weights, and what is noted of the model that they were imported from."""
    wanted = session.skeleton.abstract(session.mesh)
    with Checkpoints(path / CHECKPOINTS) as checkpoints:
        which = "latest" if step is None else step
        restored = checkpoints.restore(wanted, step=which, missing="error", extra="ignore")
    assert restored is not None, "missing='error' raises instead"
    return restored.state, restored.info.get(ORIGIN)


def _cast(session: Session, weights: Weights, dtype: DType) -> tuple[Session, Weights]:
    """Give a model another dtype than its checkpoint, which restores in its own."""
    config = override(
        session.config, [f"precision.{name}={dtype}" for name in ("params", "compute")]
    )
    check(config)
    cast = jax.jit(lambda array: array.astype(jnp.dtype(dtype)), donate_argnums=0)
    tokens = config.data.sequence_length
    session = make_session(config, session.platform, batch_tokens=tokens, mesh=session.mesh)
    params = {
        name: array if array.dtype == jnp.dtype(dtype) else cast(array)
        for name, array in weights.params.items()
    }
    return session, dataclasses.replace(weights, params=params)


def _imported_tokenizer(imported: ImportedModel) -> Tokenizer | None:
    """Return a directory's tokenizer; without one none: bytes would mean other tokens."""
    if imported.config.data.tokenizer == "bytes":
        return None
    if is_named(imported.directory.path, TOKENIZER_JSON):
        file_inside(imported.directory.path, TOKENIZER_JSON)
    return load_tokenizer(imported.config.data)


def _run_tokenizer(path: Path, config: Config) -> Tokenizer | None:
    """Return a run's tokenizer; an imported model has its files with it."""
    folder = path / TOKENIZER
    if not folder.is_dir():
        return load_tokenizer(config.data)
    if is_named(folder, TOKENIZER_JSON):
        return HfTokenizer(file_inside(folder, TOKENIZER_JSON))
    return None if config.data.tokenizer == "bytes" else load_tokenizer(config.data)
