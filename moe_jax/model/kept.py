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
from moe_jax.moe.exchange.rounds import RECEIVED
from moe_jax.nn.names import ATTENDED, MLP_HIDDEN, QKV
from moe_jax.sharding.params import all_but_gathered

Policy = Callable[..., Any]

_NAMES = {
    "attention": ATTENDED,
    "residual": RESIDUAL,
    "dispatch": RECEIVED,
    "experts": "experts_hidden",
    "qkv": QKV,
    "mlp": MLP_HIDDEN,
}
#: JAX's primitive of cuDNN's attention. Its gradient needs the result and a logarithm per row,
#: which no name outside reaches.
_FUSED_ATTENTION = "dot_product_attention_fwd_wrapper"


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
    named = jax.checkpoint_policies.save_only_these_names(*more, *(_NAMES[name] for name in kept))
    if "attention" not in kept:
        return named
    return jax.checkpoint_policies.save_from_both_policies(named, _is_fused_attention)


def _is_fused_attention(prim: Any, *_: Any, **__: Any) -> bool:
    return prim.name == _FUSED_ATTENTION
