"""Upcycling: a dense model's checkpoint becomes that of a Mixture of Experts, slab by slab.

Every expert begins as a copy of its layer's MLP (Komatsuzaki et al., 2023), or with granularity G
as one of the G parts of a copy (He et al., 2024). Reading the dense model is `dense_model.py`, the
command `cli/upcycle.py`.
"""

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from moe_jax.checkpoint.streamed import ArrayPlan, StreamedWriter
from moe_jax.config import Config, check, dump_config, override, write_config
from moe_jax.config.model_schema import MoeConfig, RouterConfig
from moe_jax.errors import UserError
from moe_jax.interop.convert import Report, state_path
from moe_jax.interop.dense_model import DenseModel, slab_of
from moe_jax.interop.files.staging import refuse_existing, staged
from moe_jax.interop.files.tokenizer_files import TOKENIZER_JSON, copy_files
from moe_jax.interop.same_model import differences
from moe_jax.interop.tensors.pieces import layer_of
from moe_jax.model.skeleton import Skeleton
from moe_jax.workdir import CHECKPOINTS, TOKENIZER

#: Key of what a checkpoint's `info` says about how its experts came to be.
UPCYCLED = "upcycled"


@dataclass(frozen=True)
class Upcycling:
    """How experts are made of a dense MLP.

    Raises:
        UserError: for a value out of its range.
    """

    #: Copies of each MLP.
    copies: int = 8
    #: Experts that a token visits, counted after the cut.
    top_k: int = 2
    #: Parts that each copy is cut into along its hidden size: each is an expert.
    granularity: int = 1
    #: Layers that become one Mixture of Experts: the last of each so many gets the experts.
    every: int = 1
    #: Standard deviation of what is added to each weight of an expert.
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("copies", "top_k", "granularity", "every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} ({getattr(self, name)}) must be 1 or more")
        if not 0 <= self.noise < float("inf"):
            raise UserError(f"noise ({self.noise}) must be 0 (none) or more")
        if self.top_k > self.experts:
            raise UserError(
                f"top_k ({self.top_k}) must be at most the number of experts ({self.copies} copies "
                f"x granularity {self.granularity} = {self.experts})"
            )

    @property
    def experts(self) -> int:
        return self.copies * self.granularity

    @property
    def changes(self) -> tuple[str, ...]:
        """Returns why the model computes something else than the dense one at first; nothing if
        it computes the same."""
        reasons = []
        if self.top_k % self.granularity:
            reasons.append(
                f"{self.top_k} experts are no whole number of copies of {self.granularity} parts"
            )
        if self.noise:
            reasons.append(f"noise of {self.noise:g} was added to the experts")
        return tuple(reasons)


def upcycled_config(dense: Config, how: Upcycling, overrides: Sequence[str] = ()) -> Config:
    """Return the config of the Mixture of Experts, checked.

    Raises:
        UserError: the MLP cannot be cut so, or an override does not fit.
    """
    mlp, depth = dense.model.mlp, dense.model.num_layers
    if mlp.d_ff % how.granularity:
        raise UserError(
            f"granularity ({how.granularity}) must divide the MLP's hidden size ({mlp.d_ff})"
        )
    if how.every > depth:
        raise UserError(f"every ({how.every}) must be at most the number of layers ({depth})")
    moe = MoeConfig(
        num_experts=how.experts,
        top_k=how.top_k,
        d_ff=mlp.d_ff // how.granularity,
        activation=mlp.activation,
        bias=mlp.bias,
        # Weights of the chosen add up to 1, so that copies give what one of them gives.
        router=RouterConfig(normalize_over="selected"),
    )
    layers = ("dense",) * (how.every - 1) + ("moe",)
    model = dense.model.model_copy(update={"layers": layers, "moe": moe})
    found = override(
        dense.model_copy(update={"model": model, "name": f"{dense.name}-moe"}), overrides
    )
    # A bias of selection begins at 0, which changes nothing yet.
    resting = "model.moe.router.selection_bias"
    if changed := [d for d in differences(found.model, model) if not d.startswith(resting)]:
        raise UserError(
            f"--set asks for another model than upcycling makes ({'; '.join(changed)}): set only "
            "what is not part of the model, such as mesh, precision or data"
        )
    check(found)
    return found


def upcycle(
    dense: DenseModel, out: Path, how: Upcycling, overrides: Sequence[str], report: Report
) -> Config:
    """Write a working directory with the Mixture of Experts as step 0; return its config.

    Memory holds one matrix of one layer.

    Args:
        dense: where weights come from.
        out: made: config.toml, checkpoints/, tokenizer/ where the dense model has one.
        how: what experts are made of.
        overrides: values of the config that is written, such as "mesh.expert=8".
        report: is told of progress.

    Raises:
        UserError: `out` exists, or see `upcycled_config`; nothing is left behind.
    """
    refuse_existing(out)
    config = _with_own_tokenizer(upcycled_config(dense.config, how, overrides), dense, out)
    info = {
        "config": dump_config(config),
        UPCYCLED: {"from": dense.config.name, **asdict(how)},
        "versions": {"moe-jax": importlib.metadata.version("moe-jax")},
    }
    skeleton = Skeleton(config)
    plans = {
        name: ArrayPlan(info.shape, np.dtype(info.dtype).name, _lead(name))
        for name, info in skeleton.variables.items()
    }
    by_path = {state_path(skeleton, name): plan for name, plan in plans.items()}
    with staged(out) as folder:
        copy_files(dense.files, folder / TOKENIZER)
        write_config(config, folder)
        with StreamedWriter(folder / CHECKPOINTS, 0, info, by_path) as writer:
            done, total = 0, sum(plan.size for plan in plans.values())
            for name, index, slab in _slabs(dense, config, how, skeleton):
                values = slab.astype(plans[name].numpy_dtype)[(None,) * len(index)]
                for cell in plans[name].cells(index):
                    inside = (*(slice(0, 1) for _ in index), *cell[len(index) :])
                    writer.write(state_path(skeleton, name), cell, values[inside])
                done += values.nbytes
                report(done, total)
    return config


def _with_own_tokenizer(config: Config, dense: DenseModel, out: Path) -> Config:
    """The config names the copy, unless another tokenizer was asked for."""
    copied = any(file.name == TOKENIZER_JSON for file in dense.files)
    if not copied or config.data.tokenizer != dense.config.data.tokenizer:
        return config
    return override(config, [f"data.tokenizer={out.absolute() / TOKENIZER / TOKENIZER_JSON}"])


def _lead(name: str) -> int:
    if not name.startswith("stacks."):
        return 0
    return 2 if ".moe.experts." in name else 1


def _slabs(
    dense: DenseModel, config: Config, how: Upcycling, skeleton: Skeleton
) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """Yield every slab of the new model: its parameter, its index, its values."""
    for name in skeleton.variables:
        inner, layers = layer_of(config.model, name)
        if not layers:
            yield name, (), dense.read(name, ())
        for row, layer in enumerate(layers):
            if inner == "moe.router.w_de":
                yield name, (row,), _router(config, how, layer)
            elif inner == "moe.router.bias_e":
                # Of balancing without a loss: at rest.
                yield name, (row,), np.zeros(how.experts, np.float32)
            elif match := re.fullmatch(r"moe\.experts\.(.+)", inner):
                make = _cut(match[1], how)
                theirs, place = slab_of(dense.config.model, layer, f"mlp.{_dense_name(match[1])}")
                matrix = dense.read(theirs, place).astype(np.float32)
                for expert in range(how.experts):
                    part = make(matrix, expert % how.granularity)
                    yield name, (row, expert), part + _noise(part, how, (layer, expert), inner)
            else:
                yield name, (row,), dense.read(*slab_of(dense.config.model, layer, inner))


def _dense_name(expert_name: str) -> str:
    """`w_up_edf` is `w_up_df` of an MLP: the suffix without its experts."""
    stem, _, dims = expert_name.rpartition("_")
    return f"{stem}_{dims.replace('e', '')}"


def _cut(expert_name: str, how: Upcycling) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return what takes part p of a copy.

    A token's experts are whole copies, and their weights add up to 1: each part has 1 / G of its
    copy's weight, so what parts give is multiplied by G. A bias of the output is not cut.
    """
    dims = expert_name.rpartition("_")[2].replace("e", "")
    if "f" not in dims:
        return lambda matrix, part: matrix
    axis, parts = dims.index("f"), how.granularity
    scale = np.float32(parts if expert_name.startswith("w_down") else 1)
    return lambda matrix, part: np.split(matrix, parts, axis=axis)[part] * scale


def _router(config: Config, how: Upcycling, layer: int) -> np.ndarray:
    """Parts of a copy share a column, so that a token takes all of them or none: these are the
    virtual groups of He et al."""
    rng = np.random.default_rng([how.seed, layer])
    columns = rng.standard_normal((config.model.d_model, how.copies), np.float32)
    return np.repeat(columns * np.float32(config.model.init_std), how.granularity, axis=1)


def _noise(
    part: np.ndarray, how: Upcycling, where: tuple[int, int], name: str
) -> np.ndarray | np.float32:
    """Weights only: biases stay as they are."""
    if not how.noise or part.ndim < 2:
        return np.float32(0)
    rng = np.random.default_rng([how.seed, *where, *name.encode()])
    return rng.standard_normal(part.shape, np.float32) * np.float32(how.noise)
