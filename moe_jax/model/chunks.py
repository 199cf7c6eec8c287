"""A sequence in chunks, of which a device of the tensor axis may hold a part: slices and sums."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.model.unit import Streams
from moe_jax.shapes import WholeBS

Targets = tuple[WholeBS, ...]
Weights = tuple[Float[Array, "b whole"], ...]
#: Rows are the sequences of all streams.
Hidden = Float[Array, "rows part d"]


@dataclass(frozen=True)
class Chunks:
    """Ranges of the positions that each device holds, of all streams at once.

    The last one starts early where it would pass the end; what it repeats counts once.

    Attributes:
        length: positions that a device holds of a sequence.
        most: positions, on all devices, that a chunk has at most; one a device at least.
        shards: devices over which a sequence is split.
    """

    length: int
    most: int
    shards: int

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.length // max(1, self.most // self.shards))

    @property
    def size(self) -> int:
        """Positions of one on a device."""
        return -(-self.length // self.count)

    def hidden(self, xs: Streams, index: Array) -> Hidden:
        """Return one's hidden states."""
        return jnp.concatenate([self._slice(x, index) for x in xs])

    def targets(
        self, ids: Targets, weights: Weights, index: Array
    ) -> tuple[Int[Array, "rows chunk"], Float[Array, "rows chunk"]]:
        """Return one's targets and weights, of the positions of all devices."""
        fresh = self._start(index) + jnp.arange(self.size) >= index * self.size
        scales = self._of_all(weights, index)
        counted = jnp.tile(fresh, self.shards).astype(scales.dtype)
        return self._of_all(ids, index), scales * counted

    def added(self, sums: Streams, part: Hidden, index: Array) -> Streams:
        """Return each stream's sums with one's values added where they stand."""
        start, parts = self._start(index), jnp.split(part, len(sums))
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(x, self._slice(x, index) + part, start, axis=1)
            for x, part in zip(sums, parts, strict=True)
        )

    def _start(self, index: Array) -> Array:
        return jnp.minimum(index * self.size, self.length - self.size)

    def _of_all(self, wholes: tuple[Array, ...], index: Array) -> Array:
        """Return the same range of every device's part of [batch, whole] arrays, joined."""
        batch = wholes[0].shape[0]
        parts = [whole.reshape(batch, self.shards, -1) for whole in wholes]
        return jnp.concatenate([self._slice(p, index, 2).reshape(batch, -1) for p in parts])

    def _slice(self, x: Array, index: Array, axis: int = 1) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, self._start(index), self.size, axis=axis)
