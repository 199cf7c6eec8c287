"""Numbers that follow from their index alone: the same bits in NumPy, JAX and torch.

So that contestants in processes of their own begin with the same weights and tokens, each made
where it is needed, and nothing is sent. Uniform, with mean 0 and a given standard deviation.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

#: Of a uniform distribution over [-1/2, 1/2), to standard deviation 1.
_SPREAD = math.sqrt(12)

#: Numbers that torch makes at a time.
_PART = 2**26

#: (name, shape, standard deviation) -> an array of the framework's own.
Maker = Callable[..., Any]


def seed_of(name: str) -> int:
    """Return the seed of an array, from its name."""
    return zlib.crc32(name.encode())


def scrambled(index: Any, seed: int, constant: Callable[[int], Any] = int) -> Any:
    """Return integers of 24 random bits.

    Args:
        index: from 0, below 2^32: uint32 of JAX, or int64 of NumPy or torch (whose products may
            wrap: only their low 32 bits are looked at).
        seed: of the array.
        constant: makes an unsigned number of 32 bits what the framework takes it for.
    """
    # MurmurHash3's finaliser, after one step of a linear congruence.
    mask = constant(0xFFFFFFFF)
    h = (index * constant(0x9E3779B1) + constant(seed)) & mask
    h = ((h ^ (h >> 16)) * constant(0x85EBCA6B)) & mask
    h = ((h ^ (h >> 13)) * constant(0xC2B2AE35)) & mask
    return (h ^ (h >> 16)) >> 8


def spread(uniform: Any, std: float) -> Any:
    """Return float32 of the given standard deviation; each operation is exact but the last.

    Args:
        uniform: float32 of `scrambled`'s integers.
        std: wanted.
    """
    return (uniform * 2.0**-24 - 0.5) * (_SPREAD * std)


def jax_maker(dtype: str) -> Maker:
    """Return what makes JAX arrays: traced inside `jit`, the integers take no memory."""
    import jax
    import jax.numpy as jnp

    def make(name: str, shape: tuple[int, ...], std: float = 1.0) -> jax.Array:
        index = jax.lax.iota(jnp.uint32, math.prod(shape))
        # Numbers beyond int32 have to say what they are.
        bits = scrambled(index, seed_of(name), jnp.uint32)
        return spread(bits.astype(jnp.float32), std).astype(dtype).reshape(shape)

    return make


def torch_maker(dtype: str, device: str) -> Maker:
    """Return what makes torch tensors on a device; also the nth slice of a larger one.

    Args:
        dtype: of the tensors.
        device: "cuda" or "cpu".
    """
    import torch

    def make(name: str, shape: tuple[int, ...], std: float = 1.0, nth: int = 0) -> Any:
        parts, size, seed = [], math.prod(shape), seed_of(name)
        # Eight bytes for each number: by parts, or a large array's integers fill a GPU.
        for start in range(nth * size, (nth + 1) * size, _PART):
            stop = min(start + _PART, (nth + 1) * size)
            index = torch.arange(start, stop, dtype=torch.int64, device=device)
            uniform = scrambled(index, seed).to(torch.float32)
            parts.append(spread(uniform, std).to(getattr(torch, dtype)))
        return torch.cat(parts).reshape(shape)

    return make
