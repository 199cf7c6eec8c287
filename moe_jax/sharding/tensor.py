"""Tensor parallelism inside a layer: how activations get at a split matmul, and out of it.

A matrix pair (up and down, qkv and out, gate) is split by hidden size or heads. `enter` gives every
device of the tensor axis the tokens of all of them; after the second matrix each holds a partial
sum for all tokens; `leave` adds these up. With sequence parallelism (Korthikanti et al., 2022) what
lies between is split along the sequence: `enter` is an all-gather, `leave` a reduce-scatter.
Without, tokens are whole everywhere: `enter` is nothing, `leave` an all-reduce (Shoeybi et al.,
2019). With one device on the axis, neither does anything.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moe_jax.axes import TENSOR


@dataclass(frozen=True)
class TensorAxis:
    """The tensor axis as layers see it. Its methods run inside `on_device_shards` regions."""

    size: int = 1
    sequence: Literal["split", "whole"] = "split"

    @property
    def splits_tokens(self) -> bool:
        """Whether devices of the axis hold different tokens between the matmuls."""
        return self.size > 1 and self.sequence == "split"

    @property
    def token_shards(self) -> int:
        """Over how many devices of the axis a sequence is split."""
        return self.size if self.splits_tokens else 1

    def enter(self, x: Array, dim: int = 1) -> Array:
        """Return the tokens of the whole axis: [.., s / size, ..] -> [.., s, ..] along `dim`."""
        if not self.splits_tokens:
            return x
        return jax.lax.all_gather(x, TENSOR, axis=dim, tiled=True)

    def leave(self, partial: Array, dim: int = 1) -> Array:
        """Return this device's tokens of the sum of all partial results."""
        if not self.splits_tokens:
            return self.sum(partial)
        return jax.lax.psum_scatter(partial, TENSOR, scatter_dimension=dim, tiled=True)

    def own(self, x: Array, dim: int = 1) -> Array:
        """Return this device's part of whole sequences: [.., s, ..] -> [.., s / size, ..]."""
        if not self.splits_tokens:
            return x
        size = x.shape[dim] // self.size
        return jax.lax.dynamic_slice_in_dim(x, self.index() * size, size, axis=dim)

    def sum(self, x: Array) -> Array:
        """Return the sum over the axis, everywhere."""
        return jax.lax.psum(x, TENSOR) if self.size > 1 else x

    def max(self, x: Array) -> Array:
        """Return the maximum over the axis, everywhere. Has no gradient."""
        x = jax.lax.stop_gradient(x)
        return jax.lax.pmax(x, TENSOR) if self.size > 1 else x

    def index(self) -> Array:
        """Return this device's place on the axis."""
        return jax.lax.axis_index(TENSOR) if self.size > 1 else jnp.zeros((), jnp.int32)


#: No tensor parallelism.
ONE = TensorAxis()
