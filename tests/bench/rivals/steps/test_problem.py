"""The config of a step, and how many parameters its model has."""

import math

import pytest

from moe_jax.bench.rivals.steps.problem import parameters, step_config
from moe_jax.model.skeleton import Skeleton


@pytest.mark.parametrize("shape", ["olmoe", "qwen3", "paper", "tiny"])
def test_parameters_are_those_of_our_model(shape):
    config = step_config(shape, 4, 8, 64, "bfloat16")
    variables = Skeleton(config).variables
    sizes = [math.prod(info.shape) for name, info in variables.items() if "scale" not in name]
    assert parameters(config) == sum(sizes)


def test_a_step_is_what_people_train():
    config = step_config("olmoe", 4, 8, 4096, "bfloat16", ["train.remat=full"])
    assert (config.precision.params, config.precision.compute) == ("float32", "bfloat16")
    assert config.precision.optimizer_state == "float32"
    assert (config.train.remat, config.train.global_batch) == ("full", 8)
    assert config.data.document_mask == "none"
