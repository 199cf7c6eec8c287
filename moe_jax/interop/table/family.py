"""What describes a family of models of another library: data only, read by the other files here.

The families themselves are in `families/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_jax.interop.table.setting import Setting


@dataclass(frozen=True)
class Tensor:
    """Where a parameter of ours is found.

    Attributes:
        ours: name of the parameter, inside its block for those of layers.
        theirs: name of the tensor that has it; `{layer}` and `{expert}` stand for numbers.
        layout: see `tensors/layout.py`. Ours lacks the dimensions that `theirs` numbers.
        beside: the row applies only where the block has this parameter of ours too, and then
            before a row without.
    """

    ours: str
    theirs: str
    layout: str
    beside: str = ""


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        model_type, architecture: what its config.json says of itself.
        tensors: rows of the table; one per parameter of ours, but for `Tensor.beside`.
        settings: entries of the table of config fields; later ones may rely on earlier ones.
        defaults: what absent fields of config.json mean.
        ignored: fields that do not change what the model computes, besides those of all families.
        skipped: patterns of names of tensors that are no part of the model; `{num_layers}` stands
            for the number of layers.
        when: fields that tell it from other families of its `model_type`.
        name: `model_type`, unless several families have that.
    """

    model_type: str
    architecture: str
    tensors: tuple[Tensor, ...]
    settings: tuple[Setting, ...]
    defaults: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    when: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.model_type)
