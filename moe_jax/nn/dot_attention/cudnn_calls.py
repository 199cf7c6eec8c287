"""XLA's custom calls to cuDNN's fused attention: operands, results and their description.

JAX's own wrapper (`jax.nn.dot_product_attention`) knows no documents, and what is beneath it looks
at this machine's GPU to decide what it may be asked, also when the program is for another. The
calls are XLA's, the same in JAX 0.10 and 0.11; a test compares ours with JAX's.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.errors import UserError
from moe_jax.nn.dot_attention.documents import Slots

FORWARD = "__cudnn$fmhaSoftmax"
BACKWARD = "__cudnn$fmhaSoftmaxBackward"
#: Offsets of documents, in elements, are 32-bit.
MOST_ELEMENTS = 2**31
#: XLA's names of cuDNN's element types.
ELEMENTS = {"bfloat16": "BF16", "float16": "F16"}

#: Contracted dims and batch dims of each product, of arrays [b, s, h, m] and logits [b, h, s, s].
_PRODUCTS = {
    FORWARD: {
        "bmm1_dot_dimension_numbers": (3, 3, (0, 2), (0, 2)),
        "bmm2_dot_dimension_numbers": (3, 1, (0, 1), (0, 2)),
    },
    BACKWARD: {
        "bmm1_grad_gemm1_dot_dimension_numbers": (2, 1, (0, 1), (0, 2)),
        "bmm1_grad_gemm2_dot_dimension_numbers": (3, 1, (0, 1), (0, 2)),
        "bmm2_grad_gemm1_dot_dimension_numbers": (2, 1, (0, 1), (0, 2)),
        "bmm2_grad_gemm2_dot_dimension_numbers": (3, 3, (0, 2), (0, 2)),
    },
}


def call_forward(
    q_bshm: Float[Array, "b s h m"],
    k_bsgm: Float[Array, "b s g m"],
    v_bsgn: Float[Array, "b s g n"],
    slots: Slots | None,
    scale: float,
    window: int,
    *,
    with_stats: bool,
) -> tuple[Float[Array, "b s h n"], Array | None]:
    """Return attention, and the logarithm of each softmax's denominator.

    Args:
        q_bshm: queries, bfloat16 or float16.
        k_bsgm: keys.
        v_bsgn: values; as wide as keys where there are slots.
        slots: documents; None: each row is one. What is not inside comes back as anything.
        scale: of the logits.
        window: positions that a token sees at most (0 = all).
        with_stats: whether the logarithms are wanted; None is returned otherwise.

    Returns:
        Attention, and float32 [b, h, s], or [slots, h, longest] where there are slots.
    """
    shape = q_bshm.shape
    q, k, v = (_rows(x, slots) for x in (q_bshm, k_bsgm, v_bsgn))
    rows, length, heads, _ = q.shape
    out = jax.ShapeDtypeStruct((rows, heads, length, v.shape[-1]), q.dtype)
    stats = jax.ShapeDtypeStruct((_sequences(rows, slots), heads, length), jnp.float32)
    results = [out, *([stats] if with_stats else [])]
    config = _config(FORWARD, q, scale, window, slots)
    o, *rest = _call(FORWARD, [q, k, v, *_where(q, k, slots)], results, config, transposed=1)
    return o.reshape(*shape[:3], -1), rest[0] if with_stats else None


def call_backward(
    q_bshm: Float[Array, "b s h m"],
    k_bsgm: Float[Array, "b s g m"],
    v_bsgn: Float[Array, "b s g n"],
    stats: Float[Array, "r h l"],
    o_bshn: Float[Array, "b s h n"],
    do_bshn: Float[Array, "b s h n"],
    slots: Slots | None,
    scale: float,
    window: int,
) -> tuple[Array, Array, Array]:
    """Return the gradients of queries, keys and values.

    Args:
        q_bshm: queries.
        k_bsgm: keys.
        v_bsgn: values.
        stats: as `call_forward` returns them.
        o_bshn: attention.
        do_bshn: the loss's gradient by it.
        slots: documents, as in `call_forward`.
        scale: of the logits.
        window: positions that a token sees at most (0 = all).
    """
    whole = (q_bshm, k_bsgm, v_bsgn)
    q, k, v, o, do = (_rows(x, slots) for x in (*whole, o_bshn, do_bshn))
    results = [
        jax.ShapeDtypeStruct((x.shape[0], x.shape[2], x.shape[1], x.shape[3]), x.dtype)
        for x in (q, k, v)
    ]
    config = _config(BACKWARD, q, scale, window, slots)
    operands = [q, k, v, stats, do, o, *_where(q, k, slots)]
    found = _call(BACKWARD, operands, results, config, transposed=3)
    dq, dk, dv = (d.reshape(x.shape) for d, x in zip(found, whole, strict=True))
    return dq, dk, dv


def _call(
    name: str, operands: list[Array], results: list[Any], config: str, transposed: int
) -> Sequence[Array]:
    """Call cuDNN. The first `transposed` results are [b, h, s, m], in memory as [b, s, h, m]."""
    results = [*results, jax.ShapeDtypeStruct((0,), jnp.uint8)]
    layouts = [
        (0, 2, 1, 3) if i < transposed else tuple(range(len(x.shape)))
        for i, x in enumerate(results)
    ]
    found = jax.ffi.ffi_call(
        name,
        results,
        output_layouts=layouts,
        custom_call_api_version=2,
        legacy_backend_config=config,
        vmap_method="sequential",
    )(*operands)
    # The last is XLA's work space.
    return [x.swapaxes(1, 2) if i < transposed else x for i, x in enumerate(found[:-1])]


def _rows(x: Array, slots: Slots | None) -> Array:
    """Cut the batch's tokens into rows of a slot's length: offsets do not care where rows end."""
    return x if slots is None else x.reshape(slots.kind.rows, slots.kind.longest, *x.shape[2:])


def _sequences(rows: int, slots: Slots | None) -> int:
    return rows if slots is None else slots.kind.slots


def _where(q: Array, k: Array, slots: Slots | None) -> list[Int[Array, "r n"]]:
    """Return lengths and offsets of documents: of queries, then of keys and values."""
    if slots is None:
        return []
    kind, total = slots.kind, q.shape[0] * q.shape[1]
    strides = [x.shape[2] * x.shape[3] for x in (q, k)]
    if total * max(strides) >= MOST_ELEMENTS:
        raise UserError(
            f"cuDNN's attention to packed documents numbers its elements with 32 bits, and {total} "
            f"tokens x {max(strides)} are {MOST_ELEMENTS} or more: use a smaller "
            "train.global_batch per device, or model.attention.implementation = 'xla'"
        )
    lengths = slots.lengths_n.reshape(kind.rows, kind.per_row)
    # XLA's shape has an end for every row; cuDNN reads one number more than there are slots.
    ends = jnp.full(kind.rows, total, jnp.int32)
    begins = jnp.concatenate([slots.begins_n, ends]).reshape(kind.rows, kind.per_row + 1)
    return [lengths, lengths, *(begins * stride for stride in strides)]


def _config(name: str, q: Array, scale: float, window: int, slots: Slots | None) -> str:
    """Return the description that XLA wants (`GpuBackendConfig`, as JSON)."""
    rows, length, heads, _ = q.shape
    attention = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": float(scale),
        "intermediate_tensor_shape": {
            "element_type": ELEMENTS[q.dtype.name],
            "dimensions": [str(n) for n in (rows, heads, length, length)],
            "tuple_shapes": [],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "CAUSAL" if slots is None else "PADDING_CAUSAL",
        "dropout_rate": 0.0,
        "seed": 42,
        # A window as long as the row hides nothing.
        "sliding_window_length": window if window < length else 0,
        "max_seg_per_batch": 1 if slots is None else slots.kind.per_row,
        "is_paged_attention": False,
        **{key: _product(*dims) for key, dims in _PRODUCTS[name].items()},
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": attention})


def _product(
    left: int, right: int, left_batch: Sequence[int], right_batch: Sequence[int]
) -> dict[str, list[str]]:
    return {
        "lhs_contracting_dimensions": [str(left)],
        "rhs_contracting_dimensions": [str(right)],
        "lhs_batch_dimensions": [str(i) for i in left_batch],
        "rhs_batch_dimensions": [str(i) for i in right_batch],
    }
