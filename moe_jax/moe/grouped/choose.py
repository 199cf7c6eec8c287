"""Which implementation computes a grouped product, decided before anything compiles."""

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from moe_jax.errors import UserError
from moe_jax.moe.grouped.tiles import TILE_INNER

Implementation = Literal["auto", "mosaic", "blocks", "dense"]
Chosen = Literal["mosaic", "blocks", "dense"]

#: What the tensor cores multiply and the kernels' 128-byte rows hold 64 of.
MOSAIC_DTYPES = ("bfloat16", "float16")
HOPPER = "9.0"


def choose(
    implementation: str, dtype: DTypeLike, dims: Sequence[int], device: Any = None
) -> Chosen:
    """Return the implementation to use.

    Args:
        implementation: "auto" takes "mosaic" where the device is a Hopper GPU and the kernels
            support dtype and dims, else "blocks".
        dtype: of the rows.
        dims: every size of the weights but the number of groups.
        device: of a mesh, present or only described; None takes the default device.

    Raises:
        UserError: an unknown name, or "mosaic" for what it does not support. Without any GPU here
            "mosaic" is accepted: it compiles for GPUs that are elsewhere.
    """
    capability = _compute_capability(jax.devices()[0] if device is None else device)
    if implementation not in (names := get_args(Implementation)):
        raise UserError(f"implementation = {implementation!r} is none of {', '.join(names)}")
    if implementation == "auto":
        fits = capability == HOPPER and _why_not_mosaic(capability, dtype, dims) is None
        return "mosaic" if fits else "blocks"
    if implementation == "mosaic" and (why := _why_not_mosaic(capability, dtype, dims)):
        raise UserError(why)
    return cast(Chosen, implementation)


def _why_not_mosaic(capability: str | None, dtype: DTypeLike, dims: Sequence[int]) -> str | None:
    if capability not in (None, HOPPER):
        return (
            f"implementation 'mosaic' needs a Hopper GPU (compute capability {HOPPER}), this one "
            f"has {capability}: use 'auto' or 'blocks'"
        )
    if (name := jnp.dtype(dtype).name) not in MOSAIC_DTYPES:
        return (
            f"implementation 'mosaic' multiplies {' and '.join(MOSAIC_DTYPES)}, got {name}: "
            "convert the rows, or use 'auto' or 'blocks'"
        )
    if wrong := [dim for dim in dims if dim % TILE_INNER]:
        return (
            f"implementation 'mosaic' needs the weights' sizes {tuple(dims)} to be multiples of "
            f"{TILE_INNER}, got {wrong[0]}: pad them, or use 'auto' or 'blocks'"
        )
    return None


def _compute_capability(device: Any) -> str | None:
    return device.compute_capability if device.platform == "gpu" else None
