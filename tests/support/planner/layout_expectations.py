"""What each layout of `layout_programs.py` has to move in a training step, by arithmetic of our own
from its config. No tests here.

Of a layer, per stream: what forward needs, what backward recomputes of it (full rematerialisation)
and the transposed moves. Of parameters: gathered where used, summed where stored.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial

from support.planner.layout_programs import config
from support.planner.layout_sizes import F32, Size
from support.planner.moved_arrays import Expected

from moe_jax.axes import EXPERT, FSDP, PIPE, TENSOR


def exchange(size: Size, times: int, moved: int = 5) -> Iterator[Expected]:
    """Forward there and back; backward: there again (recomputed), and gradients both ways.

    Args:
        times: layers x streams, or how often a device computes one.
        moved: of rows in all; 4 where backward recomputes nothing.
    """
    move = partial(Expected, kind="all-to-all", axes=(EXPERT,))
    yield move("rows", dtype="bf16", bytes=size.slots * size.norm, times=moved * times)


def summed_everywhere(size: Size, axes: tuple[str, ...], layers: int) -> Iterator[Expected]:
    """What the rules never split: norms, of which each layer has two."""
    sums = partial(Expected, kind="all-reduce", dtype="bf16", bytes=size.norm)
    yield sums("norms", axes=axes, times=2 * layers)
    yield sums("the last norm", axes=size.long, times=1)


def zero(
    axes: tuple[str, ...], split: int, arrays: dict[str, tuple[int, int]]
) -> Iterator[Expected]:
    """Gradients reduced to the device that has their optimiser state; then parameters gathered.

    Args:
        axes: those that hold copies.
        split: layers of a stack that are updated at once.
        arrays: name -> (bytes of a layer's on a device, how many).
    """
    for name, (bytes_, count) in arrays.items():
        yield Expected(f"gradient of {name}", "reduce-scatter", axes, "bf16", bytes_, count * split)
        yield Expected(name, "all-gather", axes, "bf16", bytes_ * split, count)


def tables(axes: tuple[str, ...], bytes_: int) -> Iterator[Expected]:
    """Embedding and output projection."""
    yield Expected("tables' gradients", "reduce-scatter", axes, "bf16", bytes_, 2)
    yield Expected("tables", "all-gather", axes, "bf16", bytes_, 2)


def dense(size: Size, tensor: int = 1) -> dict[str, tuple[int, int]]:
    return {"projections": (size.projection // tensor, 4), "router": (size.router, 1)}


def expert_parallel(size: Size) -> Iterator[Expected]:
    yield from exchange(size, size.layers * size.streams)
    yield from zero((EXPERT,), size.layers, dense(size))
    yield from tables((EXPERT,), size.table)
    yield from summed_everywhere(size, (EXPERT,), size.layers)


def data_and_expert(size: Size) -> Iterator[Expected]:
    both = ("data", EXPERT)
    yield from exchange(size, size.layers * size.streams)
    yield from zero(both, size.layers, dense(size))
    own = size.experts // size.mesh[EXPERT]
    yield from zero(("data",), size.layers, {"experts": (own, 2)})
    yield from tables(both, size.table)
    yield from summed_everywhere(size, both, size.layers)


def fsdp_and_expert(size: Size, moved: int, routers: int) -> Iterator[Expected]:
    """Parameters are stored in parts: gathered in forward and again in backward.

    Args:
        moved: of rows per layer and stream, see `exchange`.
        routers: gathers of a router.
    """
    both, layers = (FSDP, EXPERT), size.layers
    gather = partial(Expected, kind="all-gather", dtype="bf16")
    scatter = partial(Expected, kind="reduce-scatter", dtype="bf16")
    own = size.experts // size.mesh[EXPERT]
    yield from exchange(size, layers * size.streams, moved)
    yield gather("projections", axes=both, bytes=size.projection, times=2 * 4 * layers)
    yield gather("routers", axes=both, bytes=size.router, times=routers * layers)
    yield gather("experts", axes=(FSDP,), bytes=own, times=2 * 2 * layers)
    yield scatter("their gradients", axes=(FSDP,), bytes=own, times=2 * layers)
    yield scatter("projections' gradients", axes=both, bytes=size.projection, times=4 * layers)
    yield scatter("routers' gradients", axes=both, bytes=size.router, times=layers)
    yield from tables(both, size.table)
    yield from summed_everywhere(size, both, layers)


def loss_over_vocabulary(size: Size) -> Iterator[Expected]:
    """Per chunk and token: max, sum and the target's logit. Gradients need nothing further."""
    bytes_ = size.streams * size.tokens // size.chunks * F32
    yield Expected("softmax", "all-reduce", (TENSOR,), "f32", bytes_, 3 * size.chunks)


def tensor_parallel(size: Size) -> Iterator[Expected]:
    """Local experts: tokens are gathered for attention and for the experts, sums scattered."""
    gather = partial(Expected, kind="all-gather", axes=(TENSOR,))
    scatter = partial(Expected, kind="reduce-scatter", axes=(TENSOR,))
    layers, chunk = size.layers, size.activations // size.chunks
    # Forward, recomputed, and the way back of what was scattered; but the experts' sums are not
    # recomputed. Besides, the embedding of all streams.
    yield gather("tokens", dtype="bf16", bytes=size.activations, times=6 * layers + 1)
    yield scatter("sums", dtype="bf16", bytes=size.activations, times=5 * layers + 1)
    yield gather("chunks of the loss", dtype="bf16", bytes=chunk, times=size.chunks)
    yield scatter("their gradients", dtype="bf16", bytes=chunk, times=size.chunks)
    routing = size.tokens * size.config.model.moe.top_k * F32
    yield gather("combine weights", dtype="f32", bytes=routing, times=2 * layers)
    yield gather("choices", dtype="s32", bytes=routing, times=2 * layers)
    yield scatter("weights' gradients", dtype="f32", bytes=routing, times=layers)
    yield from tensor_parameters(size)


def whole_sequences(size: Size) -> Iterator[Expected]:
    """Forward: attention's and the experts' sums. Backward: the first again, the gradients of both,
    and that of the layer's input. Outside: the embedding's sum, gradients of it and of the loss."""
    sums = 6 * size.layers + 3
    yield Expected("sums", "all-reduce", (TENSOR,), "bf16", size.activations, sums)
    yield from tensor_parameters(size)


def tensor_parameters(size: Size) -> Iterator[Expected]:
    tensor, data, layers = size.mesh[TENSOR], ("data",), size.layers
    parts = {"projections": dense(size, tensor)["projections"]}
    yield from zero(data, layers, parts | {"experts": (size.experts // tensor, 2)})
    yield from tables(data, size.table // tensor)
    yield from copied_routers(size, ("data", TENSOR), data)
    yield from summed_everywhere(size, ("data", TENSOR), layers)
    yield from loss_over_vocabulary(size)


def copied_routers(
    size: Size, copies: tuple[str, ...], zero_axes: tuple[str, ...]
) -> Iterator[Expected]:
    """Copied over the tensor axis too, which ZeRO does not use: summed whole."""
    layers = size.layers
    yield Expected("routers' gradients", "all-reduce", copies, "bf16", size.router, layers)
    yield Expected("routers", "all-gather", zero_axes, "bf16", size.router * layers, 1)


def expert_and_tensor(size: Size) -> Iterator[Expected]:
    """Each device sends rows of its own tokens, of which the tensor axis computes each together."""
    gather = partial(Expected, kind="all-gather", axes=(TENSOR,), dtype="bf16")
    scatter = partial(Expected, kind="reduce-scatter", axes=(TENSOR,), dtype="bf16")
    tensor, layers, slices = size.mesh[TENSOR], size.layers, size.layers * size.streams
    yield from exchange(size, slices)
    rows = tensor * size.slots * size.norm
    chunk = size.streams * size.activations // size.chunks
    # Forward, recomputed, and the other's way back; but the experts' sums are not recomputed.
    for what, bytes_, sums in (("rows", rows, 2), ("tokens", size.activations, 3)):
        yield gather(what, bytes=bytes_, times=3 * slices)
        yield scatter(f"sums of {what}", bytes=bytes_, times=sums * slices)
    routing = tensor * size.slots * size.config.model.moe.top_k * F32
    for dtype in ("f32", "s32"):
        yield dataclasses.replace(gather("routing", bytes=routing, times=2 * slices), dtype=dtype)
    gradients = scatter("weights' gradients", bytes=routing, times=slices)
    yield dataclasses.replace(gradients, dtype="f32")
    for move in (gather, scatter):
        yield move("embedding", bytes=size.streams * size.activations, times=1)
    yield gather("chunks of the loss", bytes=chunk, times=size.chunks)
    yield scatter("their gradients", bytes=chunk, times=size.chunks)
    parts = {"projections": dense(size, tensor)["projections"]}
    yield from zero((EXPERT,), layers, parts)
    yield from tables((EXPERT,), size.table // tensor)
    yield from copied_routers(size, (EXPERT, TENSOR), (EXPERT,))
    yield from summed_everywhere(size, (EXPERT, TENSOR), layers)
    yield from loss_over_vocabulary(size)


def pipe_and_expert(size: Size) -> Iterator[Expected]:
    """A stage works at every tick; between them, microbatches go round."""
    stages, parts = size.mesh[PIPE], size.config.pipeline.microbatches
    own, ticks = size.layers // stages, parts + stages - 1
    yield from exchange(size, own * ticks * size.streams)
    permute = partial(Expected, kind="collective-permute", axes=(PIPE,), dtype="bf16")
    yield permute("microbatches", bytes=size.activations, times=2 * ticks * size.streams)
    rows = parts * size.activations
    for kind in ("all-gather", "reduce-scatter"):
        yield Expected("into and out of it", kind, (PIPE,), "bf16", rows, 2 * size.streams)
    ids = parts * size.tokens * F32
    yield Expected("positions", "all-gather", (PIPE,), "s32", ids, size.streams)
    # A stage's gradients are summed when all its layers are done.
    for name, (bytes_, count) in dense(size).items():
        for kind in ("reduce-scatter", "all-gather"):
            yield Expected(name, kind, (EXPERT,), "bf16", own * bytes_, count)
    yield Expected("norms", "all-reduce", (EXPERT,), "bf16", own * size.norm, 2)
    yield Expected("the last norm", "all-reduce", size.long, "bf16", size.norm, 1)
    yield from tables((PIPE, EXPERT), size.table)


_BY_LAYOUT = {
    "expert": expert_parallel,
    "data x expert": data_and_expert,
    "fsdp x expert": partial(fsdp_and_expert, moved=5, routers=2),
    # The policy keeps what a gathered router was converted to.
    "fsdp x expert, everything kept": partial(fsdp_and_expert, moved=4, routers=1),
    "tensor": tensor_parallel,
    "tensor, whole sequences": whole_sequences,
    "expert x tensor": expert_and_tensor,
    "pipe x expert": pipe_and_expert,
}


def expected_of(layout: str) -> tuple[Expected, ...]:
    """Everything that a layout moves in a training step, but for counters."""
    return tuple(_BY_LAYOUT[layout](Size(config(layout))))
