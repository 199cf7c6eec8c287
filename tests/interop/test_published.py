"""The sizes and fields of models that people have: all fields are understood, and the parameters
are as many as their authors say (Phi's factors for long contexts are left out)."""

import math

import pytest
from support.hf.config_jsons import PUBLISHED

from moe_jax.interop.config_json import derive_family, family_of, to_config
from moe_jax.interop.tensors.pieces import pieces
from moe_jax.model.skeleton import Skeleton


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_parameters_as_it_should(name):
    fields, billions = PUBLISHED[name]["config"], PUBLISHED[name]["billions"]
    config = to_config(fields)
    # Authors round to three digits or fewer.
    assert Skeleton(config).parameter_count() / 1e9 == pytest.approx(billions, rel=0.006)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_tensors_hold_nothing_else(name):
    fields = PUBLISHED[name]["config"]
    config, family = to_config(fields), family_of(fields)
    shapes = {piece.theirs: piece.layout.theirs_shape for piece in pieces(config, family)}
    ours = [math.prod(info.shape) for info in Skeleton(config).variables.values()]
    assert sum(map(math.prod, shapes.values())) == sum(ours)
    assert derive_family(config) is family
