"""The weights' gradient on Hopper: per group x^T dy, laid out like the weight.

    out_lio[l] = sum over rows r of group l of x_ri[r]^T dy_ro[r]

Built like `mosaic_rows.py`, with the rows contracted. Loads begin at a multiple of 8 rows, so a
group's first and last load may hold rows of its neighbours: the multiplying warpgroups zero these,
in the rows and in the gradients, before they multiply.
"""

import functools
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, DTypeLike, Float, Int

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


def multiply_weights(
    x_ri: Float[Array, "r i"],
    grad_ro: Float[Array, "r o"],
    sizes_l: Int[Array, "l"],
    tiles: Tiles,
    dtype: DTypeLike,
) -> Float[Array, "l i o"]:
    """Per group, the transposed rows by their gradients, accumulated in float32.

    Args:
        x_ri, grad_ro: TILE_ROWS divides i (twice, if tiles.cluster is 2), `tiles.cols` divides o.
        sizes_l: rows of each group.
        tiles: blocks of a cluster share the load of the gradients; `band` is not used.
        dtype: of the result.

    Returns:
        Exactly 0 for groups without rows.
    """
    sizes = sizes_l.astype(jnp.int32)
    starts = jnp.cumsum(sizes) - sizes

    def grouped_weights(*refs):
        _body(*refs, tiles=tiles)

    kernel = plgpu.kernel(
        grouped_weights,
        out_type=jax.ShapeDtypeStruct((sizes.shape[0], x_ri.shape[1], grad_ro.shape[1]), dtype),
        grid=(num_multiprocessors() // tiles.cluster,),
        grid_names=("sm",),
        cluster=(tiles.cluster,),
        cluster_names=("cluster",),
        num_threads=3,
        thread_name="wg",
        compiler_params=compiler_params(),
    )
    return kernel(starts, sizes, x_ri, grad_ro)


def _body(start_l, size_l, x_ref, grad_ref, out_ref, *, tiles: Tiles) -> None:
    dtype, stages = x_ref.dtype, tiles.stages
    panel = 128 // out_ref.dtype.itemsize
    out_tiling = (plgpu.TilingTransform((8, panel)), plgpu.SwizzleTransform(128))
    pl.run_scoped(
        functools.partial(_roles, start_l, size_l, x_ref, grad_ref, out_ref, tiles=tiles),
        x_smem=plgpu.SMEM((stages, TILE_INNER, TILE_ROWS), dtype, transforms=SWIZZLED),
        grad_smem=plgpu.SMEM((stages, TILE_INNER, tiles.cols), dtype, transforms=SWIZZLED),
        out_smem=plgpu.SMEM((2, 2, HALF, panel), out_ref.dtype, transforms=out_tiling),
        full=plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        empty=empty_barriers(tiles),
        both=plgpu.Barrier(num_arrivals=2),
        collective_axes="wg",
    )


def _roles(
    start_l, size_l, x_ref, grad_ref, out_ref, *, x_smem, grad_smem, out_smem, full, empty, both,
    tiles,
) -> None:  # fmt: skip
    groups, d_in, d_out = out_ref.shape
    stages = jnp.int32(tiles.stages)
    sm, rank, sms = lax.axis_index("sm"), lax.axis_index("cluster"), lax.axis_size("sm")
    row_tiles, col_tiles = pl.cdiv(d_in, TILE_ROWS * tiles.cluster), pl.cdiv(d_out, tiles.cols)
    total = groups * row_tiles * col_tiles
    mine = lax.div(total - sm + sms - 1, jnp.int32(sms))
    wg = lax.axis_index("wg")

    def pick(nth):
        """(first row of the loads, first own row and the end within these, place in the output)."""
        index = sm + nth * sms
        group = lax.div(index, jnp.int32(row_tiles * col_tiles))
        within = lax.rem(index, jnp.int32(row_tiles * col_tiles))
        start, size = start_l[group], size_l[group]
        aligned = start & ~(ALIGN - 1)
        row = lax.rem(within, jnp.int32(row_tiles)) * tiles.cluster + rank
        col = lax.div(within, jnp.int32(row_tiles))
        first = start - aligned
        end = jnp.where(size > 0, first + size, 0)
        return aligned, first, end, (group, row * TILE_ROWS, col * tiles.cols)

    def steps_to(end):
        return lax.div(end + TILE_INNER - 1, jnp.int32(TILE_INNER))

    @pl.when(wg == 2)
    def _load():
        plgpu.set_max_registers(40, action="decrease")

        def tile(nth, step):
            aligned, _, end, (_, row, col) = pick(nth)

            def inner(k, step):
                slot = lax.rem(step, stages)

                @pl.when(step >= stages)
                def _():
                    plgpu.barrier_wait(empty.at[slot])

                depth = pl.ds(aligned + k * TILE_INNER, TILE_INNER)
                plgpu.copy_gmem_to_smem(
                    x_ref.at[depth, pl.ds(row, TILE_ROWS)], x_smem.at[slot], full.at[slot]
                )
                plgpu.copy_gmem_to_smem(
                    grad_ref.at[depth, pl.ds(col, tiles.cols)],
                    grad_smem.at[slot],
                    full.at[slot],
                    collective_axes="cluster" if tiles.cluster > 1 else None,
                )
                return step + 1

            return lax.fori_loop(0, steps_to(end), inner, step)

        steps = lax.fori_loop(0, mine, tile, jnp.int32(0))
        drain(empty, steps, tiles.stages)

    @pl.when(wg < 2)
    def _multiply():
        plgpu.set_max_registers(232, action="increase")

        def tile(nth, step):
            _, first, end, (group, row, col) = pick(nth)
            steps = steps_to(end)

            def product(acc):
                def border(k, _):
                    slot = lax.rem(step + k, stages)
                    plgpu.wgmma_wait(0)
                    plgpu.barrier_wait(full.at[slot])
                    own = (first - k * TILE_INNER, end - k * TILE_INNER)
                    _zero_others(x_smem.at[slot, :, pl.ds(wg * HALF, HALF)], own)
                    for part in range(tiles.cols // 2 // MASKED):
                        at = wg * (tiles.cols // 2) + part * MASKED
                        _zero_others(grad_smem.at[slot, :, pl.ds(at, MASKED)], own)
                    plgpu.commit_smem()
                    plgpu.barrier_arrive(both)
                    plgpu.barrier_wait(both)
                    multiply(slot)
                    plgpu.wgmma_wait(0)
                    plgpu.barrier_arrive(empty.at[slot])

                def multiply(slot):
                    x = x_smem.at[slot, :, pl.ds(wg * HALF, HALF)]
                    plgpu.wgmma(acc, x.transpose((1, 0)), grad_smem.at[slot])

                def inner(k, _):
                    slot = lax.rem(step + k, stages)
                    plgpu.barrier_wait(full.at[slot])
                    multiply(slot)

                def then(k, _):
                    inner(k, None)
                    plgpu.wgmma_wait(1)
                    plgpu.barrier_arrive(empty.at[lax.rem(step + k - 1, stages)])

                lax.fori_loop(0, jnp.minimum(steps, 1), border, None)
                lax.fori_loop(1, jnp.minimum(steps - 1, 2), inner, None)
                lax.fori_loop(2, steps - 1, then, None)

                @pl.when(steps > 2)
                def _():
                    plgpu.wgmma_wait(0)
                    plgpu.barrier_arrive(empty.at[lax.rem(step + steps - 2, stages)])

                lax.fori_loop(jnp.maximum(steps - 1, 1), steps, border, None)
                return acc[...]

            value = pl.run_scoped(product, plgpu.ACC((HALF, tiles.cols), jnp.float32))
            _write(value, out_ref, out_smem.at[wg], (group, row + wg * HALF, col))
            return step + steps

        lax.fori_loop(0, mine, tile, jnp.int32(0))
        plgpu.wait_smem_to_gmem(0)


def _zero_others(ref, own) -> None:
    """Zeroes the rows of a [64, 64] piece that are not in own = (first, end)."""
    first, end = own
    value = plgpu.layout_cast(ref[...], plgpu.Layout.WGMMA)
    rows = plgpu.broadcasted_iota(jnp.int32, value.shape, 0, layout=plgpu.Layout.WGMMA)
    ref[...] = jnp.where((rows >= first) & (rows < end), value, jnp.zeros_like(value))


def _write(value, out_ref, smem, place) -> None:
    group, row, col = place
    panel = smem.shape[-1]
    for nth in range(value.shape[1] // panel):
        slot = nth % 2
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        smem[slot] = value[:, nth * panel : (nth + 1) * panel].astype(smem.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(
            smem.at[slot], out_ref.at[group, pl.ds(row, HALF), pl.ds(col + nth * panel, panel)]
        )
