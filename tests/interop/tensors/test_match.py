"""Tensors against the pieces that a model needs."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from moe_jax.errors import UserError
from moe_jax.interop.files.shard import TensorEntry
from moe_jax.interop.tensors.layout import Layout
from moe_jax.interop.tensors.match import LazyTensor, check_matches
from moe_jax.interop.tensors.pieces import Piece

PIECES = [Piece("w", (i,), f"layers.{i}.w", Layout("f d -> d f", (4, 6))) for i in range(2)]
SHAPES = {"layers.0.w": (6, 4), "layers.1.w": (6, 4)}


class Source:
    """Tensors of zeros; remembers what was read."""

    path = Path("a_model")
    bytes_read = 0

    def __init__(self, shapes, dtype=np.float32):
        self.tensors = {n: TensorEntry(n, s, np.dtype(dtype), 0) for n, s in shapes.items()}
        self.read_of = []

    def entry(self, name):
        if name not in self.tensors:
            raise UserError(f"no tensor {name}")
        return self.tensors[name]

    def read(self, name, slices=None):
        self.read_of.append((name, slices))
        return np.zeros(self.tensors[name].shape)


def test_what_fits_passes_without_being_read():
    source = Source(SHAPES | {"model.rotary_emb.inv_freq": (2,), "layers.2.w": (6, 4)})
    check_matches(source, PIECES, [r"layers\.2\..*"])
    assert source.read_of == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_float_that_weights_come_in_passes(dtype):
    check_matches(Source(SHAPES, dtype), PIECES)


def test_quantised_weights_are_refused():
    with pytest.raises(UserError, match=r"layers\.0\.w is int8, weights must be float32"):
        check_matches(Source(SHAPES, np.int8), PIECES)


def test_a_missing_tensor_is_named():
    with pytest.raises(UserError, match=r"no tensor layers\.1\.w"):
        check_matches(Source({"layers.0.w": (6, 4)}), PIECES)


def test_another_shape_names_both():
    source = Source(SHAPES | {"layers.1.w": (4, 6)})
    with pytest.raises(UserError, match=r"layers\.1\.w has shape \[4, 6\], .* it \[6, 4\]"):
        check_matches(source, PIECES)


def test_tensors_left_over_are_named_and_the_rest_counted():
    source = Source(SHAPES | {f"more.{i}": (1,) for i in range(7)})
    with pytest.raises(UserError, match=r"uses more\.0, .*, more\.4 and 2 more: left out"):
        check_matches(source, PIECES)


def test_a_lazy_tensor_reads_when_it_is_sliced():
    source = Source(SHAPES)
    tensor = LazyTensor(source, "layers.0.w")
    assert source.read_of == []
    tensor[slice(0, 1), slice(0, 2)]
    assert source.read_of == [("layers.0.w", (slice(0, 1), slice(0, 2)))]
