"""Shape of a batch and the sequence behind each row."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.config import override
from moe_jax.config.schema import Config, DataConfig, ExchangeConfig, TrainConfig
from moe_jax.data.batch import (
    BATCH_SPEC,
    Batch,
    abstract_batch,
    batch_indices,
    batch_shape,
    stream_tokens,
)
from moe_jax.mesh.build import build_mesh


def _config(global_batch: int, accumulation: int = 1, streams: int = 1) -> Config:
    return Config(
        train=TrainConfig(global_batch=global_batch, accumulation=accumulation),
        exchange=ExchangeConfig(streams=streams),
        data=DataConfig(sequence_length=32),
    )


def test_rows_are_divided_over_accumulation_then_streams():
    config = _config(24, accumulation=2, streams=3)
    assert batch_shape(config) == (2, 3, 4, 32)
    indices = batch_indices(5, config)
    assert indices.shape == (2, 3, 4)
    assert indices[0, 0].tolist() == [120, 121, 122, 123]
    assert indices[1, 2].tolist() == [140, 141, 142, 143]


def test_an_abstract_batch_is_that_of_a_step():
    config = _config(24, accumulation=2, streams=3)
    mesh = build_mesh(config.mesh, jax.devices()[:1])
    batch = abstract_batch(config, mesh)
    assert batch.tokens.dtype == batch.positions.dtype == jnp.int32
    assert batch.weights.dtype == jnp.float32
    assert {leaf.shape for leaf in jax.tree.leaves(batch)} == {batch_shape(config)}
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(batch)} == {BATCH_SPEC}


def test_devices_share_the_sequences_of_a_stream():
    config = override(_config(48, accumulation=2, streams=3), ["mesh.data=2", "mesh.expert=4"])
    # 8 sequences of 32 tokens in a stream, one for each of 8 devices.
    assert stream_tokens(config) == 32
    assert stream_tokens(_config(48, accumulation=2, streams=3)) == 8 * 32


def test_layout_does_not_change_which_sequences_a_step_holds():
    layouts = [(1, 1), (2, 1), (1, 4), (2, 2)]
    rows = [batch_indices(3, _config(16, a, n)).ravel().tolist() for a, n in layouts]
    assert all(row == list(range(48, 64)) for row in rows)


def test_steps_beyond_32_bits_do_not_overflow():
    assert batch_indices(2**33, _config(4)).ravel().tolist() == [2**35 + i for i in range(4)]


def test_batch_that_does_not_divide_is_refused_with_the_nearest_that_do():
    with pytest.raises(ValueError, match=r"global_batch \(15\) .*\(2 x 4\): set it to 16 or 8"):
        batch_shape(_config(15, accumulation=2, streams=4))
    with pytest.raises(ValueError, match=r"set it to 8$"):
        batch_shape(_config(3, accumulation=2, streams=4))


def test_negative_step_is_refused():
    with pytest.raises(ValueError, match="step -1 is negative"):
        batch_indices(-1, _config(4))


def test_batch_passes_through_transformations_as_a_pytree():
    batch = Batch(*(jnp.full((1, 1, 2, 3), i) for i in range(5)))
    doubled = jax.jit(lambda b: jax.tree.map(lambda x: x * 2, b))(batch)
    assert isinstance(doubled, Batch)
    assert doubled.weights.max() == 8
