"""Scores tokens against experts and selects the top k. What keeps the load even: `balance.py`.

Ties go to the expert with the lower number (`lax.top_k` is stable), on every backend.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moe_jax.config.model_schema import ModelConfig, MoeConfig, RouterConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.moe.exchange import Routing
from moe_jax.nn.param import constant, weight
from moe_jax.shapes import ScoresTE, TokensTD


class SelectionBias(nnx.Variable):
    """Added to the scores for selection only; moved by `balance.updated_bias`, not by gradients."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routed:
    """The routing, and what the balance losses need of it."""

    routing: Routing
    logits_te: ScoresTE
    #: Scores as a distribution over experts (each token's sum is 1).
    probs_te: ScoresTE


class Router(nnx.Module):
    """logits = x w_router (+ b); scores = softmax or sigmoid of them; top k by score + bias."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        shape = (model.d_model, model.moe.num_experts)
        axes = ("embed", "router_experts")
        self.w_de = weight(rngs, shape, axes, precision, model.init_std, used_in=precision.router)
        if model.moe.router.bias == "per_expert":
            self.b_e = constant(0.0, (model.moe.num_experts,), ("router_experts",), precision)
        self.has_selection_bias = has_selection_bias(model.moe.router)
        if self.has_selection_bias:
            zeros = jnp.zeros(model.moe.num_experts, jnp.float32)
            self.bias_e = SelectionBias(zeros, axes=("router_experts",))
        self.config = model.moe
        self.dtype = jnp.dtype(precision.router)

    def __call__(self, x_td: TokensTD) -> Routed:
        """Return each token's experts and combine weights."""
        logits_te = jnp.einsum(
            "td,de->te",
            x_td.astype(self.dtype),
            self.w_de[...].astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        if self.config.router.bias == "per_expert":
            logits_te = logits_te + self.b_e[...].astype(jnp.float32)
        return route(logits_te, self.bias_e[...] if self.has_selection_bias else None, self.config)


def has_selection_bias(router: RouterConfig) -> bool:
    """Return whether the router holds a bias that takes part in selection only."""
    return bool(router.bias_update_rate) or router.selection_bias == "always"


def route(logits_te: ScoresTE, bias_e: Float[Array, " e"] | None, config: MoeConfig) -> Routed:
    """Select experts and compute combine weights, in float32.

    Args:
        logits_te: router logits.
        bias_e: selection bias (Wang et al., 2024, auxiliary-loss-free balancing), or None.
        config: `router.score`, `router.groups`, `top_k` and so on.
    """
    router = config.router
    if router.score == "sparsemixer":
        return _sparsemixer(logits_te.astype(jnp.float32), router)
    scores_te = _scores(logits_te.astype(jnp.float32), router)
    choose_te = jax.lax.stop_gradient(scores_te if bias_e is None else scores_te + bias_e)
    if router.groups > 1:
        choose_te = _limit_to_groups(choose_te, router)
    _, experts_tk = jax.lax.top_k(choose_te, config.top_k)
    weights_tk = jnp.take_along_axis(scores_te, experts_tk, axis=-1, mode="promise_in_bounds")
    if router.normalize_over == "selected":
        weights_tk = weights_tk / jnp.maximum(weights_tk.sum(-1, keepdims=True), 1e-20)
    probs_te = scores_te / jnp.maximum(scores_te.sum(-1, keepdims=True), 1e-20)
    return Routed(Routing(experts_tk, weights_tk * router.scale), logits_te, probs_te)


def _scores(logits_te: ScoresTE, router: RouterConfig) -> ScoresTE:
    if router.score == "softmax":
        return jax.nn.softmax(logits_te, axis=-1)
    return jax.nn.sigmoid(logits_te)


def _limit_to_groups(choose_te: ScoresTE, router: RouterConfig) -> ScoresTE:
    """Leave only the experts of the best `top_groups` groups (DeepSeek-V2, -V3)."""
    tokens, experts = choose_te.shape
    grouped = choose_te.reshape(tokens, router.groups, experts // router.groups)
    best = 1 if router.group_score == "max" else 2
    group_scores = jax.lax.top_k(grouped, best)[0].sum(-1)
    _, chosen = jax.lax.top_k(group_scores, router.top_groups)
    allowed = jax.nn.one_hot(chosen, router.groups, dtype=jnp.bool_).any(axis=1)
    return jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(tokens, experts)


def _sparsemixer(logits_te: ScoresTE, router: RouterConfig) -> Routed:
    """Pick the best expert, then the best of the others (Liu et al., 2024; Phi-3.5-MoE).

    Each one's weight is its softmax among the experts near it: those whose logit is less than
    2 jitter max(|logit|, best) below the best. This is the paper's inference; in training it adds
    noise to the first choice and another gradient, which are left out here.
    """
    left_te, experts, weights = logits_te, [], []
    for _ in range(2):
        best_t1 = left_te.max(axis=-1, keepdims=True)
        choice_t1 = left_te.argmax(axis=-1, keepdims=True)
        reach_te = 2 * router.sparsemixer_jitter * jnp.maximum(jnp.abs(logits_te), best_t1)
        near_te = best_t1 - logits_te <= reach_te
        probs_te = jax.nn.softmax(jnp.where(near_te, left_te, -jnp.inf), axis=-1)
        experts.append(choice_t1)
        weights.append(jnp.take_along_axis(probs_te, choice_t1, axis=-1))
        chosen_te = jax.nn.one_hot(choice_t1[:, 0], logits_te.shape[-1], dtype=jnp.bool_)
        left_te = jnp.where(chosen_te, -jnp.inf, left_te)
    routing = Routing(
        jnp.concatenate(experts, axis=-1).astype(jnp.int32),
        jnp.concatenate(weights, axis=-1) * router.scale,
    )
    return Routed(routing, logits_te, jax.nn.softmax(logits_te, axis=-1))
