"""What is measured on one device: operations with their arguments and how much work they are.

The operations are those of the model, called as the model calls them. Timing is `harness.py`;
collectives are `collectives.py`; whole programs `programs/step.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from moe_jax.bench.operations.sizes import Sizes, sizes_of
from moe_jax.config.schema import Config
from moe_jax.hardware.calibration import Suite
from moe_jax.model.flops import TRAINING_OVER_FORWARD, mean_context
from moe_jax.moe.exchange.rows import from_rows, make_queues, packed_window, to_rows
from moe_jax.moe.grouped import products, swiglu
from moe_jax.moe.grouped.choose import Chosen
from moe_jax.nn.activation import activate_experts, is_gated
from moe_jax.nn.dot_attention import Implementation, dot_attention

#: (shape, dtype) of an argument drawn from a normal distribution: zeros would run faster.
Argument = tuple[tuple[int, ...], Any]


@dataclass(frozen=True)
class Spec:
    """One operation. `prepare` turns the drawn arguments into those of `function`."""

    suite: Suite
    name: str
    work: float
    unit: Literal["flop", "byte"]
    function: Callable[..., Any]
    draw: tuple[Argument, ...]
    prepare: Callable[..., tuple[Any, ...]] = lambda *args: args
    #: How often it runs in a layer, forward and backward; 0 = reported, but part of no rate.
    weight: int = 1

    def arguments(self, seed: int = 0) -> tuple[Any, ...]:
        """Return arguments on the default device."""
        keys = jax.random.split(jax.random.key(seed), len(self.draw))
        drawn = (
            jax.random.normal(key, shape, dtype)
            for key, (shape, dtype) in zip(keys, self.draw, strict=True)
        )
        return jax.block_until_ready(jax.jit(self.prepare)(*drawn))


def layer_specs(config: Config, attention: Implementation, grouped: Chosen) -> tuple[Spec, ...]:
    """Return the operations of one MoE layer of a checked config, and of the loss.

    Args:
        config: gives shapes, dtypes, and the mesh whose share of them one device has.
        attention: what `attention.implementation = "auto"` means where this is to run.
        grouped: what computes grouped matmuls there; only kernels are measured.
    """
    sizes = sizes_of(config)
    return (
        *_projections(config, sizes),
        *_experts(config, sizes),
        *(_grouped(config, sizes, grouped) if grouped == "mosaic" else ()),
        _router(config, sizes),
        _logits(config, sizes),
        *_attention(config, sizes, attention),
        *_gathers(config, sizes),
        *_elementwise(config, sizes),
    )


def _matmul(name: str, einsum: str, a: Argument, b: Argument, flops: float, weight: int) -> Spec:
    return Spec("matmul", name, flops, "flop", partial(jnp.einsum, einsum), (a, b), weight=weight)


def _projections(config: Config, sizes: Sizes) -> Iterator[Spec]:
    b, s, d, m = (
        sizes.sequences,
        sizes.length,
        config.model.d_model,
        config.model.attention.head_dim,
    )
    dtype = jnp.dtype(config.precision.compute)
    for name, heads, weight in (("query", sizes.heads, 1), ("key, value", sizes.kv_heads, 2)):
        title = f"{name} projection {b * s} x {d} x {heads * m}"
        flops = 2.0 * b * s * d * heads * m
        yield _matmul(
            title, "bsd,dhm->bshm", ((b, s, d), dtype), ((d, heads, m), dtype), flops, weight
        )
    h = sizes.heads
    title = f"output projection {b * s} x {h * m} x {d}"
    flops = 2.0 * b * s * d * h * m
    yield _matmul(title, "bshm,hmd->bsd", ((b, s, h, m), dtype), ((h, m, d), dtype), flops, 1)


def _experts(config: Config, sizes: Sizes) -> Iterator[Spec]:
    """Yield the products of `moe/experts.py`: forward, and both gradients of each."""
    e, r, d, f = sizes.local_experts, sizes.rows, config.model.d_model, sizes.d_ff
    dtype = jnp.dtype(config.precision.compute)
    ups = 2 if is_gated(config.model.moe.activation) else 1
    for name, i, o, weight in (("up", d, f, ups), ("down", f, d, 1)):
        rows, w, grad = ((e, r, i), dtype), ((e, i, o), dtype), ((e, r, o), dtype)
        flops, shape = 2.0 * e * r * i * o, f"{e} x {r} x {i} x {o}"
        yield _matmul(f"expert {name} {shape}", "lri,lio->lro", rows, w, flops, weight)
        title = f"expert {name}, gradient of rows {shape}"
        yield _matmul(title, "lro,lio->lri", grad, w, flops, weight)
        title = f"expert {name}, gradient of weight {shape}"
        yield _matmul(title, "lri,lro->lio", rows, grad, flops, weight)


def _grouped(config: Config, sizes: Sizes, implementation: Chosen) -> Iterator[Spec]:
    """Yield the products of `moe/grouped/` forward and backward, all groups of one size."""
    e, r, d, f = sizes.local_experts, sizes.rows, config.model.d_model, sizes.d_ff
    dtype = jnp.dtype(config.precision.compute)
    x, h, w_up, w_down = (
        (shape, dtype) for shape in ((e * r, d), (e * r, f), (e, d, f), (e, f, d))
    )
    sizes_l = np.full((e,), r, np.int32)

    def both(x: jax.Array, gate: jax.Array, up: jax.Array) -> Any:
        return products.gated(implementation, x, gate, up, jnp.asarray(sizes_l), swiglu)

    def rows(x: jax.Array, w: jax.Array) -> jax.Array:
        return products.by_weights(implementation, [(x, w)], jnp.asarray(sizes_l))

    def back(*grads_and_weights: jax.Array) -> jax.Array:
        pairs = list(zip(grads_and_weights[::2], grads_and_weights[1::2], strict=True))
        return products.by_weights(implementation, pairs, jnp.asarray(sizes_l), transposed=True)

    def weights(x: jax.Array, grad: jax.Array) -> jax.Array:
        return products.by_gradients(implementation, x, grad, jnp.asarray(sizes_l), dtype)

    ups = 2 if is_gated(config.model.moe.activation) else 1
    table = (
        ("gate and up", both, (x, w_up, w_up), 1) if ups == 2 else ("up", rows, (x, w_up), 1),
        ("down", rows, (h, w_down), 1),
        ("gradient of hidden", back, (x, w_down), 1),
        ("gradient of rows", back, (h, w_up) * ups, 1),
        ("gradient of up", weights, (x, h), ups),
        ("gradient of down", weights, (h, x), 1),
    )
    for name, function, draw, weight in table:
        times = max(1, draw.count(w_up))
        flops, title = 2.0 * times * e * r * d * f, f"{name} {e} x {r} x {d} x {f}"
        yield Spec("matmul_grouped", title, flops, "flop", function, draw, weight=weight)


def _router(config: Config, sizes: Sizes) -> Spec:
    """Read tokens and write a number per expert: bytes are what counts."""
    t, d, e = sizes.tokens, config.model.d_model, config.model.moe.num_experts
    compute, router = jnp.dtype(config.precision.compute), jnp.dtype(config.precision.router)

    def function(x_td: jax.Array, w_de: jax.Array) -> jax.Array:
        return jnp.einsum(
            "td,de->te", x_td.astype(router), w_de, preferred_element_type=jnp.float32
        )

    work = t * d * compute.itemsize + d * e * router.itemsize + t * e * 4
    draw = (((t, d), compute), ((d, e), router))
    name = f"router {t} x {d} x {e} {router.name}"
    return Spec("matmul", name, work, "byte", function, draw, weight=0)


def _logits(config: Config, sizes: Sizes) -> Spec:
    t, d, v = sizes.logit_rows, config.model.d_model, sizes.vocab
    dtype = jnp.dtype(config.precision.compute)
    function = partial(jnp.einsum, "bsd,vd->bsv", preferred_element_type=jnp.float32)
    draw = (((1, t, d), dtype), ((v, d), dtype))
    name = f"logits {t} x {d} x {v}, float32 out"
    return Spec("matmul", name, 2.0 * t * d * v, "flop", function, draw, weight=0)


def _attention(config: Config, sizes: Sizes, implementation: Implementation) -> Iterator[Spec]:
    b, s, m = sizes.sequences, sizes.length, config.model.attention.head_dim
    dtype = jnp.dtype(config.precision.compute)
    q, kv = ((b, s, sizes.heads, m), dtype), ((b, s, sizes.kv_heads, m), dtype)
    for span in dict.fromkeys(config.model.attention.windows):
        attend = partial(
            dot_attention,
            window=span,
            implementation=implementation,
            query_block=config.model.attention.query_block,
        )

        def forward(q, k, v, attend=attend):
            documents = config.data.document_mask == "segments"
            return attend(q, k, v, jnp.zeros((b, s), jnp.int32) if documents else None)

        def linearised(q, k, v, grad, forward=forward):
            return jax.vjp(forward, q, k, v)[1], grad

        flops = 4.0 * b * s * sizes.heads * m * mean_context(s, span)
        within = f", window {span}" if span else ""
        name = f"{implementation} {b} x {s} x {sizes.heads} x {m} causal{within}"
        yield Spec("attention_forward", name, flops, "flop", forward, (q, kv, kv))
        yield Spec(
            "attention_backward",
            name,
            flops * (TRAINING_OVER_FORWARD - 1),
            "flop",
            lambda pull, grad: pull(grad),
            (q, kv, kv, q),
            linearised,
        )


def _gathers(config: Config, sizes: Sizes) -> Iterator[Spec]:
    """Random routing, as a fresh router does: a row for every choice, in the order of experts."""
    moe, t, d = config.model.moe, sizes.routed, config.model.d_model
    dtype = jnp.dtype(config.precision.compute)
    rows, row_bytes = t * moe.top_k, d * dtype.itemsize
    scores = ((t, moe.num_experts), jnp.dtype(jnp.float32))

    def routed(scores_te: jax.Array, x: jax.Array) -> tuple[Any, ...]:
        _, experts_tk = jax.lax.top_k(scores_te, moe.top_k)
        return x, packed_window(make_queues(experts_tk, moe.num_experts), 0, rows)[0]

    for name, function, given, work in (
        ("to_rows", to_rows, t, 2 * rows),
        ("from_rows", from_rows, rows, rows + t),
    ):
        yield Spec(
            "gather",
            f"{name} {t} tokens, top {moe.top_k}, {rows} rows of {d}",
            work * row_bytes,
            "byte",
            function,
            (scores, ((given, d), dtype)),
            routed,
        )


def _elementwise(config: Config, sizes: Sizes) -> Iterator[Spec]:
    r, f = sizes.local_experts * sizes.rows, sizes.d_ff
    kind, dtype = config.model.moe.activation, jnp.dtype(config.precision.compute)
    inputs = 2 if is_gated(kind) else 1
    hidden: Argument = ((r, f), dtype)

    def act(up: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        return activate_experts(config.model.moe, up, gate)

    work = (inputs + 1) * r * f * dtype.itemsize
    yield Spec("memory", f"{kind} {r} x {f}", work, "byte", act, (hidden,) * inputs)
    token: Argument = ((sizes.sequences, sizes.length, config.model.d_model), dtype)
    work = 3 * sizes.tokens * config.model.d_model * dtype.itemsize
    name = f"residual sum {sizes.tokens} x {config.model.d_model}"
    yield Spec("memory", name, work, "byte", jnp.add, (token, token), weight=2)
