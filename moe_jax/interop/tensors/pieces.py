"""Which tensor of theirs holds which slab of our parameters, for every layer and expert.

How a slab lies inside its tensor is the layout's matter; reading and writing files is not here.
"""

import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.tensors.layout import Layout
from moe_jax.model.pattern import layer_runs
from moe_jax.model.skeleton import Skeleton

#: A parameter of a layer: its stack, its place in the stack's unit, its name in the block.
_IN_LAYER = re.compile(r"stacks\.(\d+)\.unit\.blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Piece:
    """A slab of one of our parameters, and the tensor that has it.

    Attributes:
        ours: name of our parameter (or buffer), as in `Skeleton.variables`.
        index: leading index of the slab: (), (row,) or (row, expert), where a row is a layer of
            the parameter's stack.
        theirs: name of their tensor; several pieces may share one.
        layout: between their tensor and our slab.
    """

    ours: str
    index: tuple[int, ...]
    theirs: str
    layout: Layout


def pieces(config: Config, family: Family) -> tuple[Piece, ...]:
    """Return the pieces that make up every element of every parameter, once each.

    Raises:
        UserError: the family has no tensor for some of the parameters; names them.
    """
    variables = Skeleton(config).variables
    found = {name: _row(name, family, variables) for name in variables}
    rows = {name: row for name, row in found.items() if row is not None}
    homeless = [name for name in variables if name not in rows]
    if homeless:
        raise UserError(
            f"family {family.name!r} has no tensors for {', '.join(homeless)} of this model: "
            "export it as another family, or change what gives it these parameters"
        )
    return tuple(
        piece
        for name, row in rows.items()
        for piece in _pieces_of(name, variables[name].shape, row, config.model)
    )


def skipped(config: Config, family: Family) -> tuple[str, ...]:
    """Return patterns of names of tensors that directories have and this model does not."""
    patterns = [p.replace("{num_layers}", str(config.model.num_layers)) for p in family.skipped]
    if config.model.tie_embeddings == "tied":
        # Some files store the table twice; transformers does not read the second.
        patterns += [re.escape(t.theirs) for t in family.tensors if t.ours == "head.output.w_vd"]
    return tuple(patterns)


def _row(name: str, family: Family, variables: Collection[str]) -> Tensor | None:
    match = _IN_LAYER.fullmatch(name)
    inside, block = (match[3], name.removesuffix(match[3])) if match else (name, "")
    rows = [
        row
        for row in family.tensors
        if row.ours == inside and (not row.beside or block + row.beside in variables)
    ]
    return max(rows, key=lambda row: bool(row.beside), default=None)


def _pieces_of(
    name: str, shape: tuple[int, ...], row: Tensor, model: ModelConfig
) -> Iterator[Piece]:
    numbered = [field for field in ("layer", "expert") if f"{{{field}}}" in row.theirs]
    layout = Layout(row.layout, shape[len(numbered) :], **_axis_sizes(model))
    _, layers = layer_of(model, name)
    for index in itertools.product(*map(range, shape[: len(numbered)])):
        numbers = dict(zip(numbered, index, strict=True))
        if "layer" in numbers:
            numbers["layer"] = layers[numbers["layer"]]
        yield Piece(name, index, row.theirs.format(**numbers), layout)


def layer_of(model: ModelConfig, name: str) -> tuple[str, list[int]]:
    """Return the name of a parameter in its block, and the layer of each of its rows; no rows
    outside of layers."""
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        return name, []
    stack, place = int(match[1]), int(match[2])
    cut = layer_runs(model)
    before = sum(len(run.unit) * run.repeats for run in cut[:stack])
    unit = len(cut[stack].unit)
    return match[3], [before + unit * repeat + place for repeat in range(cut[stack].repeats)]


def _axis_sizes(model: ModelConfig) -> dict[str, int]:
    """Return the sizes of what layouts may name without having it on our side."""
    attention = model.attention
    return {
        "m": attention.head_dim,
        "p": attention.latent.rope_head_dim,
        "r": attention.latent.kv_rank,
        "v": attention.latent.value_head_dim,
    }
