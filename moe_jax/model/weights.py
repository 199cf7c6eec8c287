"""The values of a model: parameters, and the buffers that gradients do not move.

Which names there are and where each array lives is `skeleton.py`; the state of a training run,
with its optimiser, is `training/state.py`.
"""

from dataclasses import dataclass
from typing import Any

import jax

#: By dotted name: `stacks.0.unit.blocks.0.moe.experts.w_up_edf`.
Arrays = dict[str, jax.Array]
#: A jax.Array, or what stands for one: a ShapeDtypeStruct, a NamedSharding.
Leaf = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """All values of a model, as one pytree; a checkpoint names them `params/...`, `buffers/...`.

    Attributes:
        params: by dotted name.
        buffers: likewise; the routers' selection biases.
    """

    params: dict[str, Leaf]
    buffers: dict[str, Leaf]

    @property
    def by_name(self) -> dict[str, Leaf]:
        """Parameters and buffers in one dict: no name is in both."""
        return self.params | self.buffers
