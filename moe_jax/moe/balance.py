"""What keeps experts evenly loaded: auxiliary losses, and the bias update that needs none.

Layers only count (`balance_sums`, on each device, over its tokens); the losses are computed once
per step from the sums over all devices, streams and layers. So their value does not depend on how
the batch is split, and no layer waits for a small all-reduce.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_jax.config.schema import MoeConfig, RouterConfig
from moe_jax.moe.exchange.contract import load_per_expert
from moe_jax.moe.router import Routed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BalanceSums:
    """Sums over tokens (or sequences) in float32; they add up over streams and devices."""

    load_e: Float[Array, "*batch e"]
    probs_e: Float[Array, "*batch e"]
    tokens: Float[Array, "*batch"]
    #: Sum over tokens of logsumexp(logits)².
    z: Float[Array, "*batch"]
    #: Sum over sequences of the sequence-wise balance loss, and the number of sequences.
    sequence_loss: Float[Array, "*batch"]
    sequences: Float[Array, "*batch"]


def balance_sums(routed: Routed, sequences: int, config: MoeConfig) -> BalanceSums:
    """Returns the sums of this device's tokens, which are `sequences` whole sequences."""
    tokens, experts = routed.probs_te.shape
    experts_tk = routed.routing.experts_tk
    load_e = load_per_expert(experts_tk, experts).astype(jnp.float32)
    per_sequence = jnp.zeros((), jnp.float32)
    if config.router.balance_loss == "sequence":
        experts_bsk = experts_tk.reshape(sequences, -1, experts_tk.shape[1])
        load_be = jax.vmap(lambda ids: load_per_expert(ids, experts))(experts_bsk)
        probs_be = routed.probs_te.reshape(sequences, -1, experts).mean(axis=1)
        share_be = load_be.astype(jnp.float32) / (experts_tk.size // sequences)
        per_sequence = experts * (share_be * probs_be).sum()
    return BalanceSums(
        load_e=load_e,
        probs_e=routed.probs_te.sum(axis=0),
        tokens=jnp.float32(tokens),
        z=jnp.square(jax.nn.logsumexp(routed.logits_te, axis=-1)).sum(),
        sequence_loss=per_sequence,
        sequences=jnp.float32(sequences),
    )


def auxiliary_loss(sums: BalanceSums, router: RouterConfig) -> Float[Array, ""]:
    """Returns the weighted balance and z losses, averaged over layers.

    balance = E sum_e share_e * probability_e, 1 when even (Switch, eq. 4; GShard's l_aux); over
    the batch ("global") or per sequence ("sequence", DeepSeek-V3 eq. 17 to 20).
    z = mean logsumexp(logits)² (ST-MoE, eq. 5).

    Args:
        sums: per layer, summed over devices and streams: load_e is [layers, e].
    """
    if router.balance_loss == "global":
        share = sums.load_e / sums.load_e.sum(axis=-1, keepdims=True)
        probability = sums.probs_e / sums.tokens[..., None]
        balance = sums.load_e.shape[-1] * (share * probability).sum(axis=-1)
    elif router.balance_loss == "sequence":
        balance = sums.sequence_loss / sums.sequences
    else:
        balance = jnp.zeros_like(sums.tokens)
    z = sums.z / sums.tokens
    return (router.balance_weight * balance + router.z_weight * z).mean()


def updated_bias(
    bias: Float[Array, "*layers e"], load: Float[Array, "*layers e"], rate: float
) -> Float[Array, "*layers e"]:
    """bias + rate * sign(mean load - load): overloaded experts become less attractive
    (Wang et al., 2024, algorithm 1)."""
    return bias + rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)
