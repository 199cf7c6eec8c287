"""Granite: four multipliers, and experts that lie in two tensors."""

from support.hf.config_jsons import of, published


def test_granite_as_published_is_read():
    model = published("Granite-3.0-3B-A800M")
    assert (model.embedding_scale, model.residual_scale, model.logit_divisor) == (12.0, 0.22, 6.0)
    assert model.attention.scale == 0.015625
    assert model.tie_embeddings == "tied"


def test_multipliers_are_one_by_default():
    model = of("granitemoe")
    assert (model.embedding_scale, model.residual_scale, model.logit_divisor) == (1.0, 1.0, 1.0)
