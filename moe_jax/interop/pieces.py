"""Which tensor of theirs holds which slab of our parameters, for every layer and expert.

How a slab lies inside its tensor is the layout's matter; reading and writing files is not here.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.config.schema import Config, ModelConfig
from moe_jax.interop.family import Family, Tensor
from moe_jax.interop.layout import Layout
from moe_jax.model.pattern import segments
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
    """Returns the pieces that make up every element of every parameter, once each.

    Raises:
        ValueError: the family has no tensor for some of the parameters; names them.
    """
    rows = {row.ours: row for row in family.tensors}
    variables = Skeleton(config).variables
    homeless = [name for name in variables if _in_block(name) not in rows]
    if homeless:
        raise ValueError(
            f"family {family.name!r} has no tensors for {', '.join(homeless)} of this model: "
            "export it as another family, or change what gives it these parameters"
        )
    found: list[Piece] = []
    for name, info in variables.items():
        found += _pieces_of(name, info.shape, rows[_in_block(name)], config.model)
    return tuple(found)


def _in_block(name: str) -> str:
    match = _IN_LAYER.fullmatch(name)
    return match[3] if match else name


def _pieces_of(
    name: str, shape: tuple[int, ...], row: Tensor, model: ModelConfig
) -> Iterator[Piece]:
    numbered = [field for field in ("layer", "expert") if f"{{{field}}}" in row.theirs]
    layout = Layout(row.layout, shape[len(numbered) :], **_axis_sizes(model))
    layers = _layers(name, model)
    for index in itertools.product(*map(range, shape[: len(numbered)])):
        numbers = dict(zip(numbered, index, strict=True))
        if "layer" in numbers:
            numbers["layer"] = layers[numbers["layer"]]
        yield Piece(name, index, row.theirs.format(**numbers), layout)


def _layers(name: str, model: ModelConfig) -> list[int]:
    """Returns the layer of each row of a parameter; none for those outside layers."""
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        return []
    stack, place = int(match[1]), int(match[2])
    cut = segments(model)
    before = sum(len(segment.unit) * segment.repeats for segment in cut[:stack])
    unit = len(cut[stack].unit)
    return [before + unit * repeat + place for repeat in range(cut[stack].repeats)]


def _axis_sizes(model: ModelConfig) -> dict[str, int]:
    """Returns the sizes of what layouts may name without having it on our side."""
    attention = model.attention
    return {
        "n": attention.head_dim,
        "r": attention.latent.rope_head_dim,
        "u": attention.latent.value_head_dim,
        "c": attention.latent.kv_rank,
    }
