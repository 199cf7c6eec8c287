"""What backward finds of a layer: `train.remat` as policies for `jax.checkpoint`.

Values have their names where they are computed. Which names there are is `config/remat.py`, what
each of them spares `spared.py`.
"""

from collections.abc import Callable
from typing import Any

import jax

from moe_jax.config.remat import AUTO, EVERYTHING, kept_names
from moe_jax.errors import UserError
from moe_jax.model.block import RESIDUAL
from moe_jax.model.pipeline import LAYER_INPUT
from moe_jax.moe.exchange.at_experts import HIDDEN
from moe_jax.moe.exchange.hop import RECEIVED
from moe_jax.nn.names import ATTENDED, MLP_HIDDEN, QKV
from moe_jax.sharding.params import all_but_gathered

Policy = Callable[..., Any]

_NAMES = {
    "attention": ATTENDED,
    "residual": RESIDUAL,
    "dispatch": RECEIVED,
    "experts": HIDDEN,
    "qkv": QKV,
    "mlp": MLP_HIDDEN,
}


def kept_of_layer(remat: str) -> Policy:
    """Return the policy of one layer.

    Args:
        remat: a value of `train.remat`.

    Raises:
        UserError: it is still "auto".
    """
    return all_but_gathered if remat == EVERYTHING else _named(remat)


def kept_of_group(remat: str) -> Policy | None:
    """Return the policy of a group of layers in a pipeline; None keeps everything.

    Args:
        remat: a value of `train.remat`.

    Raises:
        UserError: it is still "auto".
    """
    return None if remat == EVERYTHING else _named(remat, LAYER_INPUT)


def decided_names(remat: str) -> tuple[str, ...]:
    """Return `kept_names` of a value that is decided.

    Args:
        remat: a value of `train.remat`.

    Raises:
        UserError: it is still "auto".
    """
    if remat == AUTO:
        raise UserError(
            "train.remat = auto is resolved by compiling, in `train` and `plan`: name what is kept "
            "here, or full or none"
        )
    return kept_names(remat)


def _named(remat: str, *more: str) -> Policy:
    kept = decided_names(remat)
    names = (_NAMES[name] for name in kept)
    return jax.checkpoint_policies.save_only_these_names(*more, *names)
