"""Where each part of the training state is stored, and that its description is exact."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from support.model_cases import configured, parallel_of

from moe_jax.checkpoint.tree import paths_of
from moe_jax.model.skeleton import Skeleton
from moe_jax.training.state import abstract_state, init_state, state_shardings
from moe_jax.training.step import make_steps

UP = "stacks.0.unit.blocks.0.moe.experts.w_up_edf"
QUERY = "stacks.0.unit.blocks.0.attention.w_q_dhm"


def steps_on_8(*overrides: str):
    config = configured("mesh.expert=8", "model.num_layers=1", *overrides)
    parallel = parallel_of(config)
    return make_steps(Skeleton(config), parallel), parallel.mesh


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer.name=muon",),
        ("precision.params=bfloat16", "precision.master=float32"),
    ],
    ids=["adamw", "muon", "master"],
)
def test_optimizer_state_is_split_wherever_copies_of_its_parameter_are(overrides):
    steps, mesh = steps_on_8(*overrides)
    placed = state_shardings(steps.skeleton, steps.optimizer, mesh)
    assert placed.params[UP].spec == PartitionSpec("pipe", "expert", "fsdp", "tensor")
    assert spec_of(placed, UP) == {PartitionSpec("pipe", "expert", ("fsdp", "data"), "tensor")}
    assert placed.params[QUERY].spec == PartitionSpec("pipe", "fsdp", "tensor", None)
    ((_, embed, *_),) = spec_of(placed, QUERY)
    assert embed == ("fsdp", "data", "expert")
    leaves = jax.tree_util.tree_leaves_with_path(placed.opt_state)
    counts = [s.spec for path, s in leaves if not hasattr(path[-1], "key")]
    assert set(counts) == {PartitionSpec()}


def test_optimizer_state_may_live_with_its_parameter():
    steps, mesh = steps_on_8("sharding.optimizer=parameter")
    placed = state_shardings(steps.skeleton, steps.optimizer, mesh)
    for name in (UP, QUERY):
        assert spec_of(placed, name) == {placed.params[name].spec}


def spec_of(placed, name: str) -> set[PartitionSpec]:
    leaves = jax.tree_util.tree_leaves_with_path(placed.opt_state)
    specs = {s.spec for path, s in leaves if getattr(path[-1], "key", None) == name}
    assert specs
    return specs


@pytest.mark.slow
def test_abstract_state_describes_a_fresh_one():
    steps, mesh = steps_on_8("model.moe.router.bias_update_rate=0.1")
    fresh = init_state(steps.skeleton, steps.optimizer, mesh)
    described = abstract_state(steps.skeleton, steps.optimizer, mesh)

    def facts(a):
        return a.shape, a.dtype, a.sharding

    assert jax.tree.map(facts, fresh) == jax.tree.map(facts, described)
    for counter in (fresh.step, fresh.skipped, fresh.skipped_in_a_row):
        np.testing.assert_array_equal(counter, 0)


def test_a_checkpoint_names_the_state_as_it_always_did():
    """Renaming an array makes every checkpoint on disk unreadable."""
    steps, mesh = steps_on_8("model.moe.router.bias_update_rate=0.1")
    state = abstract_state(steps.skeleton, steps.optimizer, mesh)
    params = {name for name, info in steps.skeleton.variables.items() if not info.is_buffer}
    assert {"embedding.w_vd", "head.norm.scale", UP, QUERY} < params
    moments = {f"opt_state/0/{moment}/{name}" for moment in ("mu", "nu") for name in params}
    assert set(paths_of(state)) == {
        *("step", "skipped", "skipped_in_a_row", "opt_state/0/count", "opt_state/2/count"),
        "buffers/stacks.0.unit.blocks.0.moe.router.bias_e",
        *(f"params/{name}" for name in params),
        *moments,
    }
    weights = {path for path in paths_of(state) if path.startswith(("params/", "buffers/"))}
    assert set(paths_of(state.weights)) == weights
