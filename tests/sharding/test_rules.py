"""Where parameters and optimiser state live, for every axis of the mesh."""

import pytest
from jax.sharding import PartitionSpec as P

from moe_jax.axes import AXES
from moe_jax.config.schema import ShardingConfig
from moe_jax.sharding.rules import Placement

QUERY = (("layers", "embed", "heads", "head_dim"), (4, 64, 8, 16))
KEY = (("layers", "embed", "kv_heads", "head_dim"), (4, 64, 2, 16))
EXPERT = (("layers", "experts", "embed", "mlp"), (4, 8, 64, 128))
NORM = (("layers", "norm"), (4, 64))


def placement(virtual_stages: int = 1, *, sizes: dict[str, int] | None = None, **config):
    return Placement(
        dict.fromkeys(AXES, 1) | (sizes or {}), ShardingConfig(**config), virtual_stages
    )


@pytest.mark.parametrize(
    ("parameter", "spec"),
    [
        (QUERY, P("pipe", "fsdp", "tensor", None)),
        (EXPERT, P("pipe", "expert", "fsdp", "tensor")),
        (NORM, P("pipe", None)),
        ((("vocab", "embed"), (32, 64)), P("tensor", "fsdp")),
    ],
)
def test_every_axis_splits_its_dimension(parameter, spec):
    assert placement().stored(*parameter) == spec


def test_dense_parameters_may_be_split_over_the_expert_axis_too():
    both = placement(dense="fsdp_expert")
    assert both.stored(*QUERY) == P("pipe", ("fsdp", "expert"), "tensor", None)
    assert both.stored(*EXPERT) == placement().stored(*EXPERT)


@pytest.mark.parametrize(("tensor", "split"), [(2, "tensor"), (4, None)])
def test_few_key_heads_are_whole_everywhere(tensor, split):
    assert placement(sizes={"tensor": tensor}).stored(*KEY)[2] == split


@pytest.mark.parametrize(
    ("layers", "virtual_stages", "in_order"), [(4, 1, True), (5, 1, False), (4, 2, False)]
)
def test_layers_out_of_order_split_their_embed_dimension(layers, virtual_stages, in_order):
    found = placement(virtual_stages, sizes={"pipe": 2})
    axes, shape = QUERY[0], (layers, *QUERY[1][1:])
    assert found.in_order(layers) == in_order
    wanted = P("pipe", "fsdp") if in_order else P(None, ("fsdp", "pipe"))
    assert P(*found.stored(axes, shape)[:2]) == wanted


def test_optimizer_state_is_split_over_what_copies_its_parameter_in_mesh_order():
    sizes = {"data": 2, "expert": 4, "fsdp": 2}
    assert placement(sizes=sizes).optimizer(*QUERY)[1] == ("fsdp", "data", "expert")
    assert placement(sizes=sizes).optimizer(*EXPERT)[2] == ("fsdp", "data")
    assert placement(sizes=sizes).optimizer(*NORM) == placement(sizes=sizes).stored(*NORM)


def test_axes_that_do_not_divide_are_left_out():
    found = placement(sizes={"data": 3, "expert": 4}).optimizer(*QUERY)
    assert found[1] == ("fsdp", "expert")


def test_optimizer_state_may_stay_with_its_parameter():
    found = placement(sizes={"expert": 4}, optimizer="parameter")
    assert found.optimizer(*QUERY) == found.stored(*QUERY)


def test_unknown_axis_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown logical axis 'depth'.*layers.*embed"):
        placement().stored(("depth",), (4,))
