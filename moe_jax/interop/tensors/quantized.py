"""Tensors that published models store in fewer bits, as the numbers they stand for.

MXFP4 (gpt-oss) and FP8 in blocks (DeepSeek-V3). Decoding is done for the part that is asked for,
when it is. Which methods a config.json may name is decided here; files are opened elsewhere.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from moe_jax.errors import UserError
from moe_jax.interop.files.directory import QUANTIZATION
from moe_jax.interop.files.shard import Slices, TensorEntry
from moe_jax.interop.tensors.match import TensorSource

#: Values of a group of MXFP4 that share a scale (OCP Microscaling Formats, 2023, section 5.2).
GROUP = 32
#: What 4 bits stand for: a sign, two of exponent, one of mantissa.
_FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
#: Both values of a byte, the lower half first.
_FP4_PAIRS = np.stack(
    [np.concatenate([_FP4, -_FP4])[np.arange(256) % 16], np.repeat([*_FP4, *-_FP4], 16)], axis=-1
)
#: Exponents of scales are stored with this added.
_EXPONENT_BIAS = 127
#: Decoded tensors stand as this; reading gives float32, which loses nothing.
_DTYPE = np.dtype(ml_dtypes.bfloat16)


def dequantize(source: TensorSource, config_json: Mapping[str, Any]) -> TensorSource:
    """Return the tensors of a model as numbers, whatever they are stored as.

    Args:
        source: the tensors as they are stored.
        config_json: says how in `quantization_config`, if it is there.

    Raises:
        UserError: the method is not known, or tensors do not fit together; names them.
    """
    quantization = config_json.get(QUANTIZATION)
    if quantization is None:
        return source
    if not isinstance(quantization, Mapping):
        raise UserError(
            f"{source.path}: config.json: {QUANTIZATION} = {quantization!r:.200} must be an object "
            "with a quant_method"
        )
    method = quantization.get("quant_method")
    if method == "mxfp4":
        return Mxfp4(source)
    if method == "fp8":
        return Fp8(source, quantization)
    raise UserError(
        f"{source.path}: config.json: {QUANTIZATION}.quant_method = {method!r} is not supported, "
        "known are 'mxfp4' and 'fp8': use the model's directory without quantisation"
    )


class _Decoded:
    """Tensors by name, of which some are decoded from two stored ones."""

    def __init__(self, source: TensorSource, decoded: dict[str, TensorEntry], used: set[str]):
        self.path = source.path
        self._source = source
        self._decoded = decoded
        kept = {name: entry for name, entry in source.tensors.items() if name not in used}
        self.tensors: Mapping[str, TensorEntry] = kept | decoded

    @property
    def bytes_read(self) -> int:
        """Tensor data read so far, as it is stored."""
        return self._source.bytes_read

    def entry(self, name: str) -> TensorEntry:
        """Return shape and dtype of a tensor; raise UserError where there is none."""
        return self._decoded[name] if name in self._decoded else self._source.entry(name)

    def read(self, name: str, slices: Slices | None = None) -> np.ndarray:
        """Read a tensor or a part of it; what is decoded comes as float32."""
        if name not in self._decoded:
            return self._source.read(name, slices)
        shape = self._decoded[name].shape
        ranges = [(0, n) for n in shape]
        if slices is not None:
            ranges = [part.indices(n)[:2] for part, n in zip(slices, shape, strict=True)]
        return self._decode(name, ranges)

    def _decode(self, name: str, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
        raise NotImplementedError


class Mxfp4(_Decoded):
    """Matrices [expert, in, out] out of `_blocks` [expert, out, group, 16 bytes] and `_scales`."""

    def __init__(self, source: TensorSource):
        decoded, used = {}, set()
        for name, entry in source.tensors.items():
            if not name.endswith("_blocks"):
                continue
            base = name.removesuffix("_blocks")
            scales = source.entry(f"{base}_scales")
            if entry.shape[:-1] != scales.shape or entry.shape[-1:] != (GROUP // 2,):
                raise UserError(
                    f"{source.path}: {name} {list(entry.shape)} must have {GROUP // 2} bytes for "
                    f"each of {scales.name} {list(scales.shape)}"
                )
            experts, rows, groups, _ = entry.shape
            shape = (experts, groups * GROUP, rows)
            decoded[base] = dataclasses.replace(entry, name=base, shape=shape, dtype=_DTYPE)
            used |= {name, scales.name}
        super().__init__(source, decoded, used)

    def _decode(self, name: str, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
        experts, (low, high), rows = ranges
        groups = (low // GROUP, math.ceil(high / GROUP))
        where = tuple(slice(*part) for part in (experts, rows, groups))
        blocks = self._source.read(f"{name}_blocks", (*where, slice(0, GROUP // 2)))
        exponents = self._source.read(f"{name}_scales", where).astype(np.int32) - _EXPONENT_BIAS
        pairs = _FP4_PAIRS[blocks].reshape(*blocks.shape[:3], GROUP)
        values = np.ldexp(pairs, exponents[..., None], out=pairs)
        values = values.reshape(*blocks.shape[:2], -1)
        start = groups[0] * GROUP
        return values[..., low - start : high - start].swapaxes(1, 2)


class Fp8(_Decoded):
    """Matrices [out, in] of 8-bit floats times the scale of their block, `..._scale_inv`."""

    def __init__(self, source: TensorSource, quantization: Mapping[str, Any]):
        block = quantization.get("weight_block_size")
        pair = block if isinstance(block, list) and len(block) == 2 else []
        if not pair or not all(type(n) is int and n > 0 for n in pair):
            raise UserError(
                f"{source.path}: config.json: {QUANTIZATION}.weight_block_size = {block!r} is not "
                "supported: it must be two numbers, such as [128, 128]"
            )
        self._block = tuple(pair)
        decoded, used = {}, set()
        for name, entry in source.tensors.items():
            if entry.dtype != np.dtype(ml_dtypes.float8_e4m3fn):
                continue
            scales = source.entry(f"{name}_scale_inv")
            grid = tuple(math.ceil(n / b) for n, b in zip(entry.shape, pair, strict=False))
            if scales.shape != grid or scales.dtype != np.float32:
                raise UserError(
                    f"{source.path}: {scales.name} is {scales.dtype} {list(scales.shape)}, "
                    f"{name} {list(entry.shape)} in blocks of {block} needs float32 {list(grid)}"
                )
            decoded[name] = dataclasses.replace(entry, dtype=_DTYPE)
            used |= {name, scales.name}
        super().__init__(source, decoded, used)

    def _decode(self, name: str, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
        where = tuple(slice(*part) for part in ranges)
        values = self._source.read(name, where).astype(np.float32)
        blocked = list(zip(ranges, self._block, strict=True))
        cells = [(low // b, math.ceil(high / b)) for (low, high), b in blocked]
        scales = self._source.read(f"{name}_scale_inv", tuple(slice(*part) for part in cells))
        for axis, ((low, high), b) in enumerate(blocked):
            scales = scales.take(np.arange(low, high) // b - low // b, axis=axis)
        values *= scales
        return values
