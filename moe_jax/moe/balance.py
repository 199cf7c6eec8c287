"""What keeps experts evenly loaded: auxiliary losses, and the bias update that needs none.

Layers only count (`balance_sums`, on each device, over its tokens); the losses are computed once
per step from the sums over all devices, streams and layers. So their value does not depend on how
the batch is split, and no layer waits for a small all-reduce.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_jax.config.model_schema import MoeConfig, RouterConfig
from moe_jax.moe.exchange.contract import load_per_expert
from moe_jax.moe.router import Routed
from moe_jax.sharding.tensor import ONE, TensorAxis


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


def balance_sums(
    routed: Routed, sequences: int, config: MoeConfig, tensor: TensorAxis = ONE
) -> BalanceSums:
    """Return the sums of this device's tokens.

    Args:
        routed: their routing.
        sequences: that they are, or are a part of.
        config: says which balance loss is counted for.
        tensor: over which each sequence is split.
    """
    tokens, experts = routed.probs_te.shape
    shards = tensor.token_shards
    per_sequence = jnp.zeros((), jnp.float32)
    if config.router.balance_loss == "sequence":
        per_sequence = _sequence_loss(routed, sequences, tensor) / shards
    return BalanceSums(
        load_e=load_per_expert(routed.routing.experts_tk, experts).astype(jnp.float32),
        probs_e=routed.probs_te.sum(axis=0),
        tokens=jnp.float32(tokens),
        z=jnp.square(jax.nn.logsumexp(routed.logits_te, axis=-1)).sum(),
        sequence_loss=per_sequence,
        sequences=jnp.float32(sequences / shards),
    )


def _sequence_loss(routed: Routed, sequences: int, tensor: TensorAxis) -> Float[Array, ""]:
    """Return the sum of the sequences' balance losses, over whole sequences."""
    experts, top_k = routed.probs_te.shape[1], routed.routing.experts_tk.shape[1]
    experts_bsk = routed.routing.experts_tk.reshape(sequences, -1, top_k)
    load_be = jax.vmap(lambda ids: load_per_expert(ids, experts))(experts_bsk)
    load_be = load_be.astype(jnp.float32)
    probs_be = routed.probs_te.reshape(sequences, -1, experts).sum(axis=1)
    if tensor.splits_tokens:
        load_be, probs_be = tensor.sum(load_be), tensor.sum(probs_be)
    length = experts_bsk.shape[1] * tensor.token_shards
    return experts * (load_be / (length * top_k) * probs_be / length).sum()


def auxiliary_loss(sums: BalanceSums, router: RouterConfig) -> Float[Array, ""]:
    """Return the weighted balance and z losses, averaged over layers.

    balance = E sum_e share_e * probability_e, 1 when even (Switch, eq. 4; GShard's l_aux); over
    the batch ("global") or per sequence ("sequence", DeepSeek-V3 eq. 17 to 20).
    z = mean logsumexp(logits)² (ST-MoE, eq. 5).

    Args:
        sums: per layer, summed over devices and streams: load_e is [layers, e].
        router: which balance loss, and the weights of both.
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
    """Return bias + rate * sign(mean load - load): overloaded experts become less attractive.

    Wang et al., 2024, algorithm 1.

    Args:
        bias: of all layers that have one.
        load: rows that each expert was sent in a step, over all devices.
        rate: how far a step moves each bias.
    """
    return bias + rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)
