"""What a cache holds, and on which devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from support.model_cases import configured, parallel_of

from moe_jax.axes import BATCH_AXES
from moe_jax.model.cache import EntryShape, abstract_cache, empty_cache, entry_shapes

LATENT = ("model.attention.kind=latent", "model.attention.kv_heads=2")


@pytest.mark.parametrize(("tensor", "heads"), [(1, 2), (2, 2), (4, 4)])
def test_keys_and_values_of_every_head_and_one_each_where_devices_are_more(tensor, heads):
    config = configured("model.attention.heads=4", "model.attention.kv_heads=2")
    assert entry_shapes(config.model.attention, tensor) == (EntryShape(heads, 8, "tensor"),) * 2


def test_latent_attention_keeps_one_array_that_all_heads_read():
    attention = configured(*LATENT).model.attention
    width = attention.latent.kv_rank + attention.latent.rope_head_dim
    assert entry_shapes(attention, 4) == (EntryShape(1, width, None),)


def test_a_window_keeps_no_more_than_it_sees_nor_than_there_is():
    config = configured("model.num_layers=4", "model.attention.windows=[3,0,100,0]")
    mesh = parallel_of(config).mesh
    ((*layers,),) = abstract_cache(config, mesh, slots=2, context=16)
    assert [keys.shape for keys, _ in layers] == [
        (1, 2, places, 1, 8) for places in (3, 16, 16, 16)
    ]


def test_stacks_have_their_repetitions():
    config = configured("model.num_layers=4", 'model.layers=["dense","moe","moe","moe"]')
    cache = abstract_cache(config, parallel_of(config).mesh, slots=2, context=4)
    assert [[keys.shape[0] for keys, _ in stack] for stack in cache] == [[1], [3]]


def test_an_empty_cache_is_zeros_split_by_sequence_and_head():
    config = configured(
        *("mesh.expert=4", "mesh.tensor=2", "model.vocab_size=32"),
        *("model.attention.kv_heads=2", "model.num_layers=1"),
    )
    mesh = parallel_of(config).mesh
    abstract = abstract_cache(config, mesh, slots=8, context=4)
    cache = empty_cache(abstract)
    for leaf, described in zip(jax.tree.leaves(cache), jax.tree.leaves(abstract), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (
            *(described.shape, described.dtype),
            described.sharding,
        )
        assert leaf.sharding.spec == PartitionSpec(None, BATCH_AXES, None, "tensor", None)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, 2, 4, 1, 8)}
        np.testing.assert_array_equal(leaf, 0)
