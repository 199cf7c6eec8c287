"""What is gathered of a module's variables, and what its gradient does on the way back."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from moe_jax.axes import AXES
from moe_jax.config.schema import MeshConfig, ShardingConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.sharding.params import (
    gather,
    gathers_anything,
    map_stacked,
    rounded,
    stored_specs,
    stored_specs_of_layer,
    with_gathers,
    with_layers_axis,
)
from moe_jax.sharding.rules import Placement
from moe_jax.sharding.spmd import on_device_shards

QUERY = (("embed", "heads"), (8, 4))
EXPERT = (("experts", "embed", "mlp"), (4, 8, 4))
NORM = (("norm",), (8,))


def placed(**sizes: int) -> Placement:
    return Placement(dict.fromkeys(AXES, 1) | sizes, ShardingConfig(dense="fsdp_expert"))


def variables(**parameters) -> nnx.State:
    """A state of numbered parameters, each given by its logical axes and shape."""
    return nnx.State(
        {
            name: nnx.Param(jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape), axes=axes)
            for name, (axes, shape) in parameters.items()
        }
    )


def stacked(axes, shape, layers: int = 2):
    return ("layers", *axes), (layers, *shape)


def specs(state) -> dict:
    return {name: variable.get_value() for name, variable in state.items()}


def test_specs_of_one_layer_leave_the_layers_dimension_out():
    state = variables(q=stacked(*QUERY), head=(("vocab", "embed"), (16, 8)))
    placement = placed(pipe=2, fsdp=2, tensor=2)
    q = P("pipe", ("fsdp", "expert"), "tensor")
    head = P("tensor", ("fsdp", "expert"))
    assert specs(stored_specs(state, placement)) == {"q": q, "head": head}
    assert specs(stored_specs_of_layer(state, placement)) == {"q": P(*q[1:]), "head": head}


@pytest.mark.parametrize(
    ("sizes", "options", "gathers"),
    [
        ({}, {}, {"q": (), "up": (), "norm": ()}),
        ({"tensor": 2}, {}, {"q": (), "up": (), "norm": ()}),
        (
            {"fsdp": 2, "expert": 4},
            {},
            {"q": ((0, ("fsdp", "expert")),), "up": ((1, ("fsdp",)),), "norm": ()},
        ),
        (
            {"expert": 4},
            {"experts": True},
            {"q": ((0, ("fsdp", "expert")),), "up": ((0, ("expert",)),), "norm": ()},
        ),
    ],
    ids=["one device", "tensor stays split", "experts stay at home", "experts come too"],
)
def test_what_a_layer_gathers(sizes, options, gathers):
    state = variables(q=stacked(*QUERY), up=stacked(*EXPERT), norm=stacked(*NORM))
    marked = with_gathers(state, placed(**sizes), **options)
    assert {name: variable.gathers for name, variable in marked.items()} == gathers
    assert gathers_anything(marked) == any(gathers.values())


def test_layers_stored_by_parts_are_gathered_over_the_pipe_axis_outside_a_pipeline_only():
    state = variables(q=stacked(*QUERY, layers=3))
    inside, outside = (
        with_gathers(state, placed(pipe=2), pipe=pipe)["q"].gathers for pipe in (False, True)
    )
    assert inside == ()
    ((dim, axes),) = outside
    assert dim == 0
    assert axes[-1] == "pipe"


def on_four(function, state, *args, out_specs):
    """Runs `function(state, *args)` on 2 x 2 devices, the state as stored."""
    mesh = build_mesh(MeshConfig(fsdp=2, expert=2), jax.devices()[:4])
    stored = stored_specs(state, placed(fsdp=2, expert=2))
    in_specs = (stored, *[P(("fsdp", "expert"))] * len(args))
    return on_device_shards(function, mesh, in_specs=in_specs, out_specs=out_specs)(state, *args)


def test_gathered_variables_are_whole_but_for_experts():
    state = with_gathers(variables(q=QUERY, up=EXPERT), placed(fsdp=2, expert=2))

    def local(state):
        whole = gather(state)
        return whole["q"][...], whole["up"][...]

    q, up = on_four(local, state, out_specs=(P(), P("expert")))
    np.testing.assert_array_equal(q, state["q"][...])
    np.testing.assert_array_equal(up, state["up"][...])


def test_gradients_are_those_of_the_whole_and_scattered_on_the_way_back():
    state = with_gathers(variables(q=QUERY), placed(fsdp=2, expert=2))
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)

    def loss(q):
        marked = jax.tree.map(lambda _: q, state)

        def local(state, x):
            return ((x @ gather(state)["q"][...]) ** 2).sum()[None]

        return on_four(local, marked, x, out_specs=P(("fsdp", "expert"))).sum()

    q = state["q"][...]
    want = jax.grad(lambda q: ((x @ q) ** 2).sum())(q)
    np.testing.assert_allclose(jax.grad(loss)(q), want, rtol=1e-5)
    text = jax.jit(jax.grad(loss)).lower(q).as_text()
    assert "reduce_scatter" in text
    # Over groups of one: nothing.
    assert set(re.findall(r'"stablehlo.all_reduce".*?tensor<\d+x(\d+)xi64>', text)) <= {"1"}


def test_stacked_variables_are_mapped_with_the_place_of_embed():
    state = with_layers_axis(variables(q=(QUERY[0], (2, 8, 4)), n=(NORM[0], (2, 8))))
    assert state["q"].axes == ("layers", *QUERY[0])
    seen = {}
    mapped = map_stacked(lambda value, embed: seen.setdefault(value.shape, embed) or value, state)
    assert seen == {(2, 8, 4): 0, (2, 8): None}
    assert mapped["q"].axes == state["q"].axes


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({}, {"q", "up", "norm"}),
        ({"expert": 4}, {"up"}),
        ({"expert": 4, "data": 2}, set()),
        ({"tensor": 2}, {"q", "up"}),
        # What is gathered on the way has its gradient summed on the way back.
        ({"fsdp": 2, "expert": 4}, set()),
    ],
    ids=["one device", "experts at home", "replicas add up", "tensor", "fsdp"],
)
def test_rounded_are_those_whose_gradient_no_other_device_adds_to(sizes, names):
    state = variables(q=stacked(*QUERY), up=stacked(*EXPERT), norm=stacked(*NORM))
    state = jax.tree.map(
        lambda v: nnx.Param(v[...], **v.get_metadata() | {"used_in": "bfloat16"}),
        state,
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )
    placement = placed(**sizes)
    got = rounded(with_gathers(state, placement), placement)
    assert {name for name, v in got.items() if v.dtype == jnp.bfloat16} == names


def test_rounded_leaves_what_is_used_as_it_is_stored():
    state = with_gathers(variables(q=stacked(*QUERY)), placed())
    assert rounded(state, placed())["q"].dtype == jnp.float32
