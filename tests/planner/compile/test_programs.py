"""The programs that are planned, as far as they go without a compiler: arguments on their mesh.

What compiles to what is tested in test_jobs.py and in tests/planner/test_planning.py.
"""

import jax
import pytest
from support.planner.small_programs import config

from moe_jax.mesh.build import build_mesh
from moe_jax.planner.compile import programs
from moe_jax.planner.planning import PROGRAMS

CONFIG = config()
DUMPED = CONFIG.model_dump(mode="json")


@pytest.fixture(scope="module")
def mesh():
    return build_mesh(CONFIG.mesh, jax.devices()[: CONFIG.mesh.expert])


def build(mode, mesh):
    return getattr(programs, PROGRAMS[mode])(mesh, DUMPED, devices_per_host=2)


@pytest.mark.parametrize("mode", PROGRAMS)
def test_arguments_are_abstract_and_on_the_mesh(mode, mesh):
    function, arguments = build(mode, mesh)
    assert hasattr(function, "trace")
    leaves = jax.tree.leaves(arguments)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert {leaf.sharding.mesh for leaf in leaves} == {mesh}


def test_training_holds_more_than_the_weights_that_forward_needs(mesh):
    def size(mode):
        return sum(leaf.size for leaf in jax.tree.leaves(build(mode, mesh)[1]))

    weights = sum(leaf.size for leaf in jax.tree.leaves(build("forward", mesh)[1][:2]))
    # Adam's two moments of every parameter.
    assert size("train") >= size("forward") + 2 * weights


def test_decoding_has_a_slot_for_each_sequence(mesh):
    _, (*_, newest, sampling, memory) = build("decode", mesh)
    slots = CONFIG.train.global_batch
    assert newest.shape[0] == slots
    assert {leaf.shape[0] for leaf in jax.tree.leaves(sampling)} == {slots}
    assert jax.tree.leaves(memory)
