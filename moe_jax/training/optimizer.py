"""AdamW or Muon from optax, with the dtypes of the config. Gradient clipping included."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from moe_jax.config.schema import Config, OptimizerConfig
from moe_jax.dtypes import library_promotion
from moe_jax.model.skeleton import VariableInfo
from moe_jax.training.schedule import make_schedule

Variables = Mapping[str, VariableInfo]
_STACKED = ("layers", "experts")


def make_optimizer(config: Config, variables: Variables) -> optax.GradientTransformation:
    """Return the optimiser for parameters named as in `variables`.

    Its updates are float32 whatever the parameters' dtype; apply them with `apply_updates`.

    Args:
        config: a checked config.
        variables: of a `Skeleton`; buffers among them are left alone.
    """
    schedule = make_schedule(config.schedule, config.optimizer, config.train.steps)
    build = {"adamw": _adamw, "muon": _muon}[config.optimizer.name]
    inner = _promoting(build(config.optimizer, schedule, variables))
    # Also for float32: moments begin in the dtype of their parameters.
    inner = _stored_as(inner, jnp.dtype(config.precision.optimizer_state))
    if config.precision.master == "float32":
        inner = _with_master(inner)
    return inner


def clipped(grads: Any, norm: jax.Array, limit: float) -> Any:
    """Return float32 gradients scaled so that their global norm is at most `limit` (0 = off)."""
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-30)) if limit else jnp.float32(1)
    return jax.tree.map(lambda g: g.astype(jnp.float32) * scale, grads)


def apply_updates(params: Any, updates: Any) -> Any:
    """Return params + updates, added in float32 and stored in each parameter's dtype."""
    return jax.tree.map(lambda p, u: (p.astype(jnp.float32) + u).astype(p.dtype), params, updates)


def _promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let optax mix integer counters and floats where our own code is held to strict promotion.

    It computes beta ** count.
    """

    def init(params: Any) -> Any:
        with library_promotion():
            return inner.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with library_promotion():
            return inner.update(updates, state, params)

    return optax.GradientTransformation(init, update)


def _adamw(
    config: OptimizerConfig, schedule: optax.Schedule, variables: Variables
) -> optax.GradientTransformation:
    return optax.adamw(
        schedule,
        config.beta1,
        config.beta2,
        config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed(variables),
    )


def _muon(
    config: OptimizerConfig, schedule: optax.Schedule, variables: Variables
) -> optax.GradientTransformation:
    """Return Muon (Jordan et al., 2024) for the matrices inside layers, AdamW for the rest.

    `consistent_rms` makes its updates as large as AdamW's, so both share one learning rate
    (Liu et al., 2025, eq. 4).
    """
    # Any: optax names the type of one such leaf, and takes a tree of them.
    matrices: Any = {name: _matrix(name, info) for name, info in _trained(variables)}
    for_matrices = muon(
        schedule,
        beta=0.95,
        eps=config.eps,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )
    # optax's own Adam inside `muon` is another one (Nesterov) and decays biases and norm scales.
    return optax.partition(
        {"muon": for_matrices, "adamw": _adamw(config, schedule, variables)},
        {name: "adamw" if dims is None else "muon" for name, dims in matrices.items()},
    )


def _matrix(name: str, info: VariableInfo) -> MuonDimensionNumbers | None:
    """Return which dimensions are a matrix's inputs and outputs; None for what is no matrix.

    Embeddings, output projections and routers are tables rather than maps between hidden spaces.
    """
    if not _is_weight(name) or "vocab" in info.axes or "router_experts" in info.axes:
        return None
    dims = [i for i, axis in enumerate(info.axes) if axis not in _STACKED]
    if info.axes[dims[0]] == "embed":
        return MuonDimensionNumbers(tuple(dims[:1]), tuple(dims[1:]))
    return MuonDimensionNumbers(tuple(dims[:-1]), tuple(dims[-1:]))


def _decayed(variables: Variables) -> dict[str, bool]:
    """Weight decay is for matrices: not for biases and norm scales."""
    return {name: _is_weight(name) for name, _ in _trained(variables)}


def _is_weight(name: str) -> bool:
    return name.rsplit(".", 1)[-1].startswith("w_")


def _trained(variables: Variables) -> list[tuple[str, VariableInfo]]:
    return [(name, info) for name, info in variables.items() if not info.is_buffer]


def _stored_as(
    inner: optax.GradientTransformation, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """Keep `inner`'s floating-point state in `dtype` between steps; it computes in float32."""

    def cast(state: Any, to: Any) -> Any:
        def one(leaf: jax.Array) -> jax.Array:
            return leaf.astype(to) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(one, state)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, new = inner.update(updates, cast(state, jnp.float32), params)
        return updates, cast(new, dtype)

    return optax.GradientTransformation(lambda params: cast(inner.init(params), dtype), update)


class MasterState(NamedTuple):
    """The float32 copy of the parameters, and the state of the optimiser that moves it."""

    master: Any
    inner: Any


def _with_master(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optimise a float32 copy; parameters follow it, rounded (Micikevicius et al., 2018)."""

    def to_float32(params: Any) -> Any:
        return jax.tree.map(lambda p: p.astype(jnp.float32), params)

    def init(params: Any) -> MasterState:
        master = to_float32(params)
        return MasterState(master, inner.init(master))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MasterState]:
        updates, new_inner = inner.update(updates, state.inner, state.master)
        master = apply_updates(state.master, updates)
        step = jax.tree.map(lambda m, p: m - p.astype(jnp.float32), master, params)
        return step, MasterState(master, new_inner)

    return optax.GradientTransformation(init, update)
