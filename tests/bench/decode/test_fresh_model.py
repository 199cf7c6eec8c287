"""A model with random weights: of its config, on its mesh, the same every time."""

import numpy as np
import pytest
from support.training_cases import small_config

from moe_jax.bench.decode.fresh_model import fresh_model


@pytest.fixture
def config():
    return small_config("exchange.overflow=drop", "name=fresh")


def test_model_is_that_of_the_config_made_to_infer(config):
    model = fresh_model(config)
    assert model.name == "fresh"
    with pytest.raises(ValueError, match=r"fresh has no tokenizer\.json"):
        _ = model.tokenizer
    assert model.config.model == config.model
    # Dropping would make a text depend on its neighbours.
    assert model.config.exchange.overflow == "rounds"


def test_weights_are_drawn_from_the_seed(config):
    tokens = np.arange(8, dtype=np.int32)[None]
    once, again = (fresh_model(config).logits(tokens) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    other = fresh_model(config.model_copy(update={"seed": 1})).logits(tokens)
    assert not np.array_equal(once, other)


def test_a_mesh_that_does_not_fit_is_refused(config):
    mesh = config.mesh.model_copy(update={"expert": 3})
    with pytest.raises(ValueError, match=r"num_experts \(8\) must be a multiple of mesh.expert"):
        fresh_model(config.model_copy(update={"mesh": mesh}))
