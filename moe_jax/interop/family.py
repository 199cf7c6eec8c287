"""What describes a family of models of another library: data only, read by the other files here.

The families themselves are in `families/`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """Where a parameter of ours is found.

    Attributes:
        ours: name of the parameter, inside its block for those of layers.
        theirs: name of the tensor that has it; `{layer}` and `{expert}` stand for numbers.
        layout: see `layout.py`. Ours lacks the dimensions that `theirs` numbers.
    """

    ours: str
    theirs: str
    layout: str


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        model_type, architecture: what its config.json says of itself.
        tensors: rows of the table; one per parameter of ours at most.
    """

    model_type: str
    architecture: str
    tensors: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        return self.model_type
