"""The weights' gradient on Hopper: per group x^T dy, laid out like the weight.

    out_lio[l] = sum over rows r of group l of x_ri[r]^T dy_ro[r]

Built like `mosaic_rows.py`, with the rows contracted. Loads begin at a multiple of 8 rows, so a
group's first and last load may hold rows of its neighbours: the multiplying warpgroups zero these
before they multiply.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, DTypeLike, Float, Int

from moe_jax.moe.grouped.cost import cost_told
from moe_jax.moe.grouped.mosaic_rows import (
    HALF,
    SWIZZLED,
    compiler_params,
    drain,
    empty_barriers,
    num_multiprocessors,
)
from moe_jax.moe.grouped.tiles import TILE_INNER, TILE_ROWS, Tiles

#: Rows of the borders within swizzled shared memory.
ALIGN = 8
#: What is masked at a time: rows of a load by columns.
MASKED = 64


@functools.partial(jax.jit, static_argnames=("tiles", "dtype"))
def multiply_weights(
    x_ri: Float[Array, "r i"],
    grad_ro: Float[Array, "r o"],
    sizes_l: Int[Array, "l"],
    tiles: Tiles,
    dtype: DTypeLike,
) -> Float[Array, "l i o"]:
    """Multiply each group's transposed rows by their gradients, accumulated in float32.

    Args:
        x_ri: i is a multiple of 64.
        grad_ro: `tiles.cols` divides o.
        sizes_l: rows of each group.
        tiles: `band` is not used.
        dtype: of the result.

    Returns:
        Exactly 0 for groups without rows.
    """
    flops = 2 * x_ri.shape[0] * x_ri.shape[1] * grad_ro.shape[1]
    sizes = sizes_l.astype(jnp.int32)
    starts = jnp.cumsum(sizes) - sizes
    # Loads are made of 8 rows; a remainder would be out of their reach.
    x_ri, grad_ro = (
        jnp.pad(rows, ((0, -rows.shape[0] % ALIGN), (0, 0))) for rows in (x_ri, grad_ro)
    )

    def grouped_weights(*refs):
        _body(_Refs(*refs), tiles)

    out = jax.ShapeDtypeStruct((sizes.shape[0], x_ri.shape[1], grad_ro.shape[1]), dtype)
    kernel = plgpu.kernel(
        grouped_weights,
        out_type=out,
        grid=(num_multiprocessors(),),
        grid_names=("sm",),
        num_threads=3,
        thread_name="wg",
        compiler_params=compiler_params(),
    )
    with cost_told(flops, [x_ri, grad_ro], [out]):
        return kernel(starts, sizes, x_ri, grad_ro)


class _Refs(NamedTuple):
    """Arrays in the GPU's memory."""

    start: Any
    size: Any
    x: Any
    grad: Any
    out: Any


class _Shared(NamedTuple):
    """A block's shared memory and its barriers, by stage of the loads."""

    x: Any
    grad: Any
    #: [warpgroup, 2, 64, panel]
    out: Any
    full: Any
    empty: Any
    #: Where both multiplying warpgroups meet.
    both: Any


class _Tile(NamedTuple):
    #: First row of the loads, a multiple of ALIGN.
    aligned: Any
    #: The group's first row and its end within the loads.
    first: Any
    end: Any
    #: First row of all that is nobody's, within the loads.
    nobody: Any
    group: Any
    row: Any
    col: Any

    @property
    def steps(self):
        return lax.div(self.end + TILE_INNER - 1, jnp.int32(TILE_INNER))


class _Done(NamedTuple):
    """What a warpgroup has computed and not yet written; `some` says whether there is any."""

    value: Any
    group: Any
    row: Any
    col: Any
    some: Any


def _body(refs: _Refs, tiles: Tiles) -> None:
    dtype, stages = refs.x.dtype, tiles.stages
    panel = _panel(refs.out.dtype)
    out_tiling = (plgpu.TilingTransform((8, panel)), plgpu.SwizzleTransform(128))
    pl.run_scoped(
        lambda *shared: _roles(refs, _Shared(*shared), tiles),
        plgpu.SMEM((stages, TILE_INNER, TILE_ROWS), dtype, transforms=SWIZZLED),
        plgpu.SMEM((stages, TILE_INNER, tiles.cols), dtype, transforms=SWIZZLED),
        plgpu.SMEM((2, 2, HALF, panel), refs.out.dtype, transforms=out_tiling),
        plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        empty_barriers(tiles),
        plgpu.Barrier(num_arrivals=2),
        collective_axes="wg",
    )


def _panel(dtype: DTypeLike) -> int:
    """Return the columns of 128 bytes."""
    return 128 // jnp.dtype(dtype).itemsize


def _roles(refs: _Refs, shared: _Shared, tiles: Tiles) -> None:
    groups, d_in, d_out = refs.out.shape
    sm, sms = lax.axis_index("sm"), lax.axis_size("sm")
    row_tiles, col_tiles = pl.cdiv(d_in, TILE_ROWS), pl.cdiv(d_out, tiles.cols)
    per_group = jnp.int32(row_tiles * col_tiles)
    total = groups * row_tiles * col_tiles
    mine = lax.div(total - sm + sms - 1, jnp.int32(sms))
    used = refs.start[groups - 1] + refs.size[groups - 1]

    def pick(nth) -> _Tile:
        index = jnp.minimum(sm + nth * sms, total - 1)
        group, within = lax.div(index, per_group), lax.rem(index, per_group)
        start, size = refs.start[group], refs.size[group]
        aligned = start & ~(ALIGN - 1)
        first = start - aligned
        row = lax.rem(within, jnp.int32(row_tiles))
        return _Tile(
            aligned=aligned,
            first=first,
            end=jnp.where(size > 0, first + size, 0),
            nobody=used - aligned,
            group=group,
            row=row * TILE_ROWS,
            col=lax.div(within, jnp.int32(row_tiles)) * tiles.cols,
        )

    def each_tile(do, carry):
        """Do each tile, and read its place while the one before is computed."""

        def body(nth, carry):
            tile, carry = carry
            return pick(nth + 1), do(tile, carry)

        return lax.fori_loop(0, mine, body, (pick(jnp.int32(0)), carry))[1]

    wg = lax.axis_index("wg")

    @pl.when(wg == 2)
    def _():
        plgpu.set_max_registers(40, action="decrease")
        load = functools.partial(_load, refs, shared, tiles)
        drain(shared.empty, each_tile(load, jnp.int32(0)), tiles.stages)

    @pl.when(wg < 2)
    def _():
        plgpu.set_max_registers(232, action="increase")
        zero = jnp.int32(0)
        if not _late(refs):
            each_tile(functools.partial(_multiply_and_write, refs, shared, tiles, wg), zero)
            plgpu.wait_smem_to_gmem(0)
            return
        value = jnp.zeros((HALF, tiles.cols), refs.out.dtype)
        value = plgpu.layout_cast(value, plgpu.Layout.WGMMA)
        multiply = functools.partial(_multiply, refs, shared, tiles, wg)
        _, done = each_tile(multiply, (zero, _Done(value, zero, zero, zero, zero)))
        _write_all(refs, shared, tiles, wg, done)
        plgpu.wait_smem_to_gmem(0)


def _late(refs: _Refs) -> bool:
    """Return whether results are kept during the next tile: float32 needs too many registers."""
    return refs.out.dtype.itemsize <= 2


def _load(refs: _Refs, shared: _Shared, tiles: Tiles, tile: _Tile, step):
    """Load a tile's operands stage by stage; return the step after its last."""

    def inner(k, step):
        slot = lax.rem(step, jnp.int32(tiles.stages))

        @pl.when(step >= tiles.stages)
        def _():
            plgpu.barrier_wait(shared.empty.at[slot])

        depth = pl.ds(tile.aligned + k * TILE_INNER, TILE_INNER)
        plgpu.copy_gmem_to_smem(
            refs.x.at[depth, pl.ds(tile.row, TILE_ROWS)], shared.x.at[slot], shared.full.at[slot]
        )
        plgpu.copy_gmem_to_smem(
            refs.grad.at[depth, pl.ds(tile.col, tiles.cols)],
            shared.grad.at[slot],
            shared.full.at[slot],
        )
        return step + 1

    return lax.fori_loop(0, tile.steps, inner, step)


def _multiply_and_write(refs: _Refs, shared: _Shared, tiles: Tiles, wg, tile: _Tile, step):
    step, done = _multiply(refs, shared, tiles, wg, tile, (step, None))
    _write_all(refs, shared, tiles, wg, done)
    return step


def _multiply(refs: _Refs, shared: _Shared, tiles: Tiles, wg, tile: _Tile, carry):
    """Multiply this warpgroup's half of a tile, and write what was done before meanwhile."""
    step, done = carry
    stages, steps = jnp.int32(tiles.stages), tile.steps

    def product(acc):
        def inner(k, _):
            slot = lax.rem(step + k, stages)
            plgpu.barrier_wait(shared.full.at[slot])
            _multiply_loaded(acc, shared, wg, slot)

        def border(k, _):
            slot = lax.rem(step + k, stages)
            plgpu.barrier_wait(shared.full.at[slot])
            _zero_others(shared, tiles, wg, tile, slot, k * TILE_INNER)
            _multiply_loaded(acc, shared, wg, slot)

        def release(k):
            plgpu.wgmma_wait(1)
            plgpu.barrier_arrive(shared.empty.at[lax.rem(step + k - 1, stages)])

        def then(k, _):
            inner(k, None)
            release(k)

        def last(k, _):
            border(k, None)
            release(k)

        writes = _writes(refs, tiles) if done is not None else 0
        lax.fori_loop(0, jnp.minimum(steps, 1), border, None)
        for nth in range(writes):
            if nth:
                lax.fori_loop(nth, jnp.minimum(nth + 1, steps - 1), then, None)
            if done is not None:
                _write(nth, refs, shared, wg, done)
        lax.fori_loop(max(writes, 1), steps - 1, then, None)
        lax.fori_loop(jnp.maximum(steps - 1, 1), steps, last, None)
        return acc[...].astype(refs.out.dtype)

    # The name in JAX's own examples; JAX imports it without declaring it public.
    acc = plgpu.ACC(  # pyright: ignore[reportPrivateImportUsage]
        (HALF, tiles.cols), jnp.float32
    )
    value = pl.run_scoped(product, acc)

    @pl.when(steps > 0)
    def _():
        plgpu.barrier_arrive(shared.empty.at[lax.rem(step + steps - 1, stages)])

    return step + steps, _Done(value, tile.group, tile.row + wg * HALF, tile.col, jnp.int32(1))


def _multiply_loaded(acc, shared: _Shared, wg, slot) -> None:
    x = shared.x.at[slot, :, pl.ds(wg * HALF, HALF)]
    plgpu.wgmma(acc, x.transpose((1, 0)), shared.grad.at[slot])


def _zero_others(shared: _Shared, tiles: Tiles, wg, tile: _Tile, slot, before) -> None:
    """Zero what a load holds of other groups' rows, and of nobody's gradients.

    Others' gradients are finite, so that zeros in their rows are enough; nobody's may be anything.
    """
    first, end = tile.first - before, tile.end - before

    @pl.when((first > 0) | (end < TILE_INNER))
    def _():
        _keep(shared.x.at[slot, :, pl.ds(wg * HALF, HALF)], first, end)
        plgpu.commit_smem()

    nobody = tile.nobody - before

    @pl.when(nobody < TILE_INNER)
    def _():
        # The warpgroups in turn; there may be an odd number of pieces.
        for part in range(0, tiles.cols // MASKED, 2):
            at = (part + wg) * MASKED

            @pl.when(at < tiles.cols)
            def _(at=at):
                _keep(shared.grad.at[slot, :, pl.ds(at, MASKED)], 0, nobody)

        plgpu.commit_smem()
        plgpu.barrier_arrive(shared.both)
        plgpu.barrier_wait(shared.both)


def _keep(ref, first, end) -> None:
    """Zero the rows of a [64, 64] piece that are not from `first` to `end`."""
    value = plgpu.layout_cast(ref[...], plgpu.Layout.WGMMA)
    rows = plgpu.broadcasted_iota(jnp.int32, value.shape, 0, layout=plgpu.Layout.WGMMA)
    ref[...] = jnp.where((rows >= first) & (rows < end), value, jnp.zeros_like(value))


def _writes(refs: _Refs, tiles: Tiles) -> int:
    return tiles.cols // _panel(refs.out.dtype)


def _write_all(refs: _Refs, shared: _Shared, tiles: Tiles, wg, done: _Done) -> None:
    for nth in range(_writes(refs, tiles)):
        _write(nth, refs, shared, wg, done)


def _write(nth: int, refs: _Refs, shared: _Shared, wg, done: _Done) -> None:
    """Write one panel of what is done."""
    panel = _panel(refs.out.dtype)
    part = done.value[:, nth * panel : (nth + 1) * panel]
    plgpu.wait_smem_to_gmem(0 if nth == 0 else 1, wait_read_only=True)

    @pl.when(done.some > 0)
    def _():
        smem = shared.out.at[wg, nth % 2]
        smem[...] = part
        plgpu.commit_smem()
        place = (done.group, pl.ds(done.row, HALF), pl.ds(done.col + nth * panel, panel))
        plgpu.copy_smem_to_gmem(smem, refs.out.at[place])
