"""Rows by their group's weights on Hopper: a persistent, warp-specialised Mosaic GPU kernel.

    out_ro = sum over pairs (x_ri, w_lio) of x_r @ w_l,   l = the group of row r

One warpgroup loads; two multiply, each 64 rows of a tile of 128. A tile's result is kept, rounded,
in registers and written piece by piece while the next tile is multiplied. With `activate`, two
products of the same rows are taken at once, and their activated product is written beside them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from moe_jax.moe.grouped.cost import cost_told
from moe_jax.moe.grouped.schedule import row_tiles
from moe_jax.moe.grouped.tiles import TILE_INNER, TILE_ROWS, Tiles

#: Rows of one warpgroup, and columns that are written at a time (128 bytes of bfloat16).
HALF, PANEL = 64, 64
Activate = Callable[[Array, Array], Array]
SWIZZLED = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
#: The same bytes where a single tile is 64 columns wide, without the 8 rows' borders: copies may
#: begin at any row.
ANY_ROW = (plgpu.SwizzleTransform(128),)


def num_multiprocessors() -> int:
    """Return the default device's, or an H100's: a compile for a GPU elsewhere."""
    device = jax.devices()[0]
    return device.core_count if device.platform == "gpu" else 132


def compiler_params() -> plgpu.CompilerParams:
    """Keep layouts ours: the views of one memory that these kernels use cannot be inferred."""
    return plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane)


# Traced, lowered and compiled once per shape, however many streams and layers call it.
@functools.partial(jax.jit, static_argnames=("tiles", "transposed"))
def multiply_rows(
    pairs: Sequence[tuple[Float[Array, "r _"], Float[Array, "l _ _"]]],
    sizes_l: Int[Array, "l"],
    tiles: Tiles,
    *,
    transposed: bool = False,
) -> Float[Array, "r o"]:
    """Sum each row's products with its group's weights, accumulated in float32.

    Args:
        pairs: rows and weights; `[l, o, i]` if transposed.
        sizes_l: rows of each group.
        tiles: `cols` divides o; TILE_INNER divides every i.
        transposed: whether the weights' last dim is contracted.

    Returns:
        0 in rows of nobody.
    """
    rows = [x for x, _ in pairs]
    weights = [w for _, w in pairs]
    cols = weights[0].shape[1 if transposed else 2]
    (out,) = _call(rows, weights, sizes_l, tiles, cols, transposed=transposed)
    return out


@functools.partial(jax.jit, static_argnames=("activate", "tiles"))
def multiply_gated(
    x_rd: Float[Array, "r d"],
    w_gate_ldf: Float[Array, "l d f"],
    w_up_ldf: Float[Array, "l d f"],
    sizes_l: Int[Array, "l"],
    activate: Activate,
    tiles: Tiles,
) -> tuple[Float[Array, "r f"], Float[Array, "r f"], Float[Array, "r f"]]:
    """Compute both products of each row, and activate(gate, up) of them.

    Args:
        x_rd: rows.
        w_gate_ldf: weights in the rows' dtype; TILE_INNER divides d.
        w_up_ldf: likewise.
        sizes_l: rows of each group.
        activate: (gate, up) -> hidden in float32, of what was rounded to the rows' dtype.
        tiles: `cols` divides f.

    Returns:
        gate, up and the activated product, 0 in rows of nobody.
    """
    cols = w_up_ldf.shape[2]
    weights = [w_gate_ldf, w_up_ldf]
    gate, up, hidden = _call([x_rd], weights, sizes_l, tiles, cols, activate=activate)
    return gate, up, hidden


def _call(
    rows: Sequence[Array],
    weights: Sequence[Array],
    sizes_l: Array,
    tiles: Tiles,
    cols: int,
    *,
    transposed: bool = False,
    activate: Activate | None = None,
) -> Sequence[Array]:
    num_rows, dtype = rows[0].shape[0], rows[0].dtype
    schedule = row_tiles(sizes_l, num_rows, TILE_ROWS)
    options = _Options(tiles, transposed, activate)

    def grouped_rows(*refs):
        splits = (4, 4 + len(rows), 4 + len(rows) + len(weights))
        schedule, x, w, out = (refs[a:b] for a, b in pairwise((0, *splits, None)))
        _body(_Refs(schedule, x, w, out), options)

    outs = [jax.ShapeDtypeStruct((num_rows, cols), dtype)] * (1 if activate is None else 3)
    kernel = plgpu.kernel(
        grouped_rows,
        out_type=outs,
        grid=(num_multiprocessors(),),
        grid_names=("sm",),
        num_threads=3,
        thread_name="wg",
        compiler_params=compiler_params(),
    )
    flops = sum(2 * num_rows * math.prod(w.shape[1:]) for w in weights)
    with cost_told(flops, [*rows, *weights], outs):
        return kernel(*schedule, *rows, *weights)


@dataclass(frozen=True)
class _Options:
    tiles: Tiles
    transposed: bool
    #: Of the two products of each row; None where there is one, or a sum.
    activate: Activate | None


class _Refs(NamedTuple):
    """Arrays in the GPU's memory."""

    schedule: Any
    x: Any
    w: Any
    out: Any


class _Shared(NamedTuple):
    """A block's shared memory and its barriers, by stage of the loads."""

    #: [stages, 128, 64] as the tensor cores read it, and as copies write it.
    x: Any
    #: One array per product.
    w: Any
    #: [warpgroup, 2, 64, 64]: written, sent, and for partial tiles both.
    out: Any
    full: Any
    empty: Any


def _body(refs: _Refs, options: _Options) -> None:
    tiles, dtype = options.tiles, refs.x[0].dtype
    products = 1 if options.activate is None else 2
    x_shape, out_shape = (tiles.stages, TILE_ROWS, TILE_INNER), (2, 2, HALF, PANEL)
    w_tile = (tiles.cols, TILE_INNER) if options.transposed else (TILE_INNER, tiles.cols)
    pl.run_scoped(
        lambda *shared: _roles(refs, _Shared(*shared), options),
        plgpu.RefUnion(
            plgpu.SMEM(x_shape, dtype, transforms=SWIZZLED),
            plgpu.SMEM(x_shape, dtype, transforms=ANY_ROW),
        ),
        [plgpu.SMEM((tiles.stages, *w_tile), dtype, transforms=SWIZZLED)] * products,
        plgpu.RefUnion(
            plgpu.SMEM(out_shape, dtype, transforms=SWIZZLED),
            plgpu.SMEM(out_shape, dtype, transforms=ANY_ROW),
            plgpu.SMEM(out_shape, dtype),
        ),
        plgpu.Barrier(num_arrivals=1 + products, num_barriers=tiles.stages),
        empty_barriers(tiles),
        collective_axes="wg",
    )


def empty_barriers(tiles: Tiles) -> plgpu.Barrier:
    """Make one barrier per stage, on which both multiplying warpgroups arrive."""
    return plgpu.Barrier(num_arrivals=2, num_barriers=tiles.stages)


class _Tile(NamedTuple):
    group: Any
    start: Any
    rows: Any
    col: Any
    #: Whether the rows have a group.
    real: Any


class _Done(NamedTuple):
    """What a warpgroup has computed and not yet written."""

    #: [64, cols] in the dtype of the output; gate and up, if gated.
    values: Any
    row: Any
    col: Any
    #: Of the 64, from the first on.
    rows: Any


def _roles(refs: _Refs, shared: _Shared, options: _Options) -> None:
    group_t, start_t, rows_t, count = refs.schedule
    tiles = options.tiles
    groups, cols = refs.w[0].shape[0], refs.out[0].shape[1]
    sm, sms = lax.axis_index("sm"), lax.axis_size("sm")
    col_tiles = pl.cdiv(cols, tiles.cols)
    row_tile_count = count[0]
    total = row_tile_count * col_tiles
    mine = lax.div(total - sm + sms - 1, jnp.int32(sms))

    def pick(nth):
        index = jnp.maximum(jnp.minimum(sm + nth * sms, total - 1), 0)
        t, col = _pick(row_tile_count, col_tiles, tiles.band, index)
        return _Tile(group_t[t], start_t[t], rows_t[t], col * tiles.cols, group_t[t] < groups)

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
        load = functools.partial(_load, refs, shared, options)
        drain(shared.empty, each_tile(load, jnp.int32(0)), tiles.stages)

    @pl.when(wg < 2)
    def _():
        plgpu.set_max_registers(232, action="increase")
        nothing = jnp.zeros((HALF, tiles.cols), refs.out[0].dtype)
        values = [plgpu.layout_cast(nothing, plgpu.Layout.WGMMA) for _ in shared.w]
        zero = jnp.int32(0)
        multiply = functools.partial(_multiply, refs, shared, options, wg)
        _, done = each_tile(multiply, (zero, _Done(values, zero, zero, zero)))
        for nth in range(_writes(refs, options)):
            _write(nth, refs, shared, options, wg, done)
        plgpu.wait_smem_to_gmem(0)


def drain(empty, steps, stages: int) -> None:
    """Wait for the last loads to be used: a block that has left must not be told of them."""

    def wait(step, _):
        plgpu.barrier_wait(empty.at[lax.rem(step, jnp.int32(stages))])

    lax.fori_loop(jnp.maximum(steps - stages, 0), steps, wait, None)


def _load(refs: _Refs, shared: _Shared, options: _Options, tile: _Tile, step):
    """Load a tile's operands stage by stage; return the step after its last."""
    stages = options.tiles.stages

    def inner(x_ref, w_refs, k, step):
        slot = lax.rem(step, jnp.int32(stages))

        @pl.when(step >= stages)
        def _():
            plgpu.barrier_wait(shared.empty.at[slot])

        depth = pl.ds(k * TILE_INNER, TILE_INNER)
        plgpu.copy_gmem_to_smem(
            x_ref.at[pl.ds(tile.start, TILE_ROWS), depth],
            shared.x[1].at[slot],
            shared.full.at[slot],
        )
        columns = pl.ds(tile.col, options.tiles.cols)
        where = (columns, depth) if options.transposed else (depth, columns)
        for w_ref, smem in zip(w_refs, shared.w, strict=True):
            plgpu.copy_gmem_to_smem(
                w_ref.at[(tile.group, *where)], smem.at[slot], shared.full.at[slot]
            )
        return step + 1

    for nth, x_ref in enumerate(refs.x):
        w_refs = refs.w if options.activate is not None else refs.w[nth : nth + 1]
        steps = jnp.where(tile.real, x_ref.shape[1] // TILE_INNER, 0)
        step = lax.fori_loop(0, steps, functools.partial(inner, x_ref, w_refs), step)
    return step


def _multiply(refs: _Refs, shared: _Shared, options: _Options, wg, tile: _Tile, carry):
    """Multiply this warpgroup's half of a tile, and write that of the tile before meanwhile."""
    step, done = carry
    stages = jnp.int32(options.tiles.stages)
    steps = jnp.where(tile.real, sum(x.shape[1] // TILE_INNER for x in refs.x), 0)

    def products(*accs):
        def first(k, _):
            slot = lax.rem(step + k, stages)
            plgpu.barrier_wait(shared.full.at[slot])
            x = shared.x[0].at[slot, pl.ds(wg * HALF, HALF)]
            for acc, smem in zip(accs, shared.w, strict=True):
                w = smem.at[slot]
                plgpu.wgmma(acc, x, w.transpose((1, 0)) if options.transposed else w)

        def then(k, _):
            first(k, None)
            # All but what was just issued: the stage before may be loaded anew.
            plgpu.wgmma_wait(len(accs))
            plgpu.barrier_arrive(shared.empty.at[lax.rem(step + k - 1, stages)])

        writes = _writes(refs, options)
        for nth in range(writes):
            lax.fori_loop(nth, jnp.minimum(nth + 1, steps), then if nth else first, None)
            _write(nth, refs, shared, options, wg, done)
        lax.fori_loop(writes, steps, then, None)
        return tuple(acc[...].astype(refs.out[0].dtype) for acc in accs)

    # The name in JAX's own examples; JAX imports it without declaring it public.
    acc = plgpu.ACC(  # pyright: ignore[reportPrivateImportUsage]
        (HALF, options.tiles.cols), jnp.float32
    )
    values = pl.run_scoped(products, *[acc] * len(shared.w))

    @pl.when(steps > 0)
    def _():
        plgpu.barrier_arrive(shared.empty.at[lax.rem(step + steps - 1, stages)])

    rows = jnp.clip(tile.rows - wg * HALF, 0, HALF)
    done = _Done(list(values), tile.start + wg * HALF, tile.col, rows)
    _write_some(refs, shared, options, wg, done)
    return step + steps, done


def _pick(row_tile_count, col_tiles: int, band: int, index):
    """Return row tile and column tile of the `index`-th: bands of row tiles, column by column."""
    per_band = band * col_tiles
    first = lax.div(index, jnp.int32(per_band)) * band
    width = jnp.maximum(jnp.minimum(row_tile_count - first, band), 1)
    within = lax.rem(index, jnp.int32(per_band))
    return first + lax.rem(within, width), lax.div(within, width)


def _writes(refs: _Refs, options: _Options) -> int:
    """Return in how many pieces a tile is written: panels of every output."""
    return options.tiles.cols // PANEL * len(refs.out)


def _write(nth: int, refs: _Refs, shared: _Shared, options: _Options, wg, done: _Done) -> None:
    """Write one piece of a whole half tile: a panel of one output."""
    slot, out, part, columns = _piece(nth, refs, options, done)

    @pl.when(done.rows == HALF)
    def _():
        shared.out[0][wg, slot] = part
        plgpu.commit_smem()
        place = (pl.ds(done.row, HALF), columns)
        plgpu.copy_smem_to_gmem(shared.out[1].at[wg, slot], out.at[place])


def _write_some(refs: _Refs, shared: _Shared, options: _Options, wg, done: _Done) -> None:
    """Write a half tile of fewer rows. Seldom used, so it is not hidden behind the next tile."""

    @pl.when((done.rows > 0) & (done.rows < HALF))
    def _():
        for nth in range(_writes(refs, options)):
            slot, out, part, columns = _piece(nth, refs, options, done)
            shared.out[2][wg, slot] = part
            plgpu.commit_smem()
            # One row's copy knows no bounds, and would write a next row's first columns.
            inside = columns.start < out.shape[1]
            rows = jnp.where(inside, done.rows, 0)
            _send_some(shared.out[2].at[wg, slot], out, done.row, columns, rows)


def _piece(nth: int, refs: _Refs, options: _Options, done: _Done):
    """Return slot, output, value and the output's columns of a piece, once its slot is free."""
    panel, which = divmod(nth, len(refs.out))
    parts = [value[:, panel * PANEL : (panel + 1) * PANEL] for value in done.values]
    if which < len(parts):
        part = parts[which]
    else:
        assert options.activate is not None, "an output more than products"
        part = options.activate(*(part.astype(jnp.float32) for part in parts))
        part = part.astype(parts[0].dtype)
    # Two pieces are under way at most; an odd number of them would begin with the last one's slot.
    odd = _writes(refs, options) % 2 == 1
    plgpu.wait_smem_to_gmem(0 if nth == 0 and odd else 1, wait_read_only=True)
    return nth % 2, refs.out[which], part, pl.ds(done.col + panel * PANEL, PANEL)


def _send_some(sent, out_ref, row, columns, rows) -> None:
    """Send the first `rows` of 64 by powers of 2: a copy's size must be known to the compiler."""
    for power in range(int(math.log2(HALF)) - 1, -1, -1):
        size = 1 << power

        @pl.when((rows & size) != 0)
        def _(size=size):
            first = rows & ~(2 * size - 1)
            plgpu.copy_smem_to_gmem(
                sent.at[pl.ds(first, size)],
                out_ref.at[pl.ds(row + first, size), columns],
                commit_group=False,
            )

    plgpu.commit_smem_to_gmem_group()
