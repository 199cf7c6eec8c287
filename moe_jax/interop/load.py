"""A model's tensors as our parameters on a mesh: each device reads what it holds, no more.

Where tensors come from is `files/directory.py`, what they are to us `tensors/pieces.py`.
"""

from collections.abc import Sequence
from itertools import product

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from moe_jax.config.schema import Config
from moe_jax.interop.table.family import Family
from moe_jax.interop.tensors.match import LazyTensor, TensorSource, check_matches
from moe_jax.interop.tensors.pieces import Piece, pieces, skipped
from moe_jax.interop.tensors.tiles import copy_tiled
from moe_jax.model.skeleton import Skeleton
from moe_jax.model.weights import Arrays, Weights

Index = tuple[slice, ...]


def load_weights(source: TensorSource, config: Config, family: Family, mesh: Mesh) -> Weights:
    """Read parameters and buffers onto a mesh.

    Every process opens the same files and reads the bytes of its own devices' shards: of experts
    only those that live there. Host memory holds one shard of one parameter at a time.

    Args:
        source: the tensors.
        config: the model; `precision.params` is the dtype that parameters get.
        family: what the tensors are called.
        mesh: where they go, as the config's sharding says.

    Returns:
        What `Skeleton.init` returns, with these values.

    Raises:
        UserError: tensors are missing, left over, or of another shape than the config says.
    """
    found = pieces(config, family)
    check_matches(source, found, skipped(config, family))
    wanted = Skeleton(config).abstract(mesh)
    by_name: dict[str, dict[tuple[int, ...], Piece]] = {}
    for piece in found:
        by_name.setdefault(piece.ours, {})[piece.index] = piece

    def place(specs: dict[str, jax.ShapeDtypeStruct]) -> Arrays:
        return {name: _place(source, by_name[name], spec) for name, spec in specs.items()}

    return Weights(place(wanted.params), place(wanted.buffers))


def read_part(
    source: TensorSource, slabs: dict[tuple[int, ...], Piece], index: Index, dtype: np.dtype
) -> np.ndarray:
    """Read part of one of our arrays.

    Args:
        source: the tensors.
        slabs: the array's pieces by their leading index.
        index: a slice per dimension, with start and stop.
        dtype: of the result.
    """
    lead = len(next(iter(slabs)))
    counts = [range(part.start, part.stop) for part in index[:lead]]
    out = np.empty([part.stop - part.start for part in index], dtype)
    for place in product(*counts):
        inside = tuple(i - r.start for i, r in zip(place, counts, strict=True))
        piece = slabs[place]
        part = piece.layout.read(LazyTensor(source, piece.theirs), index[lead:])
        copy_tiled(out[(*inside, ...)], part)
    return out


def _place(
    source: TensorSource, slabs: dict[tuple[int, ...], Piece], spec: jax.ShapeDtypeStruct
) -> jax.Array:
    """Read each different shard of this process once, and gives it to the devices that hold it."""
    sharding = spec.sharding
    assert isinstance(sharding, NamedSharding), "the skeleton gives every array its sharding"
    holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(spec.shape).items():
        assert index is not None, "devices of this process hold something"
        holders.setdefault(_bounds(index, spec.shape), []).append(device)
    shards = []
    for bounds, devices in holders.items():
        part = read_part(source, slabs, tuple(slice(*b) for b in bounds), np.dtype(spec.dtype))
        shards += [jax.device_put(part, device) for device in devices]
    return jax.make_array_from_single_device_arrays(spec.shape, sharding, shards)


def _bounds(index: Sequence[slice], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))
