"""The schedule's arithmetic, and a pipeline of toy layers against a loop over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from moe_jax.axes import PIPE
from moe_jax.config.schema import MeshConfig, ShardingConfig
from moe_jax.mesh.build import build_mesh
from moe_jax.model.pipeline import Schedule, pipelined, run_pipeline
from moe_jax.sharding.params import stored_specs
from moe_jax.sharding.rules import Placement
from moe_jax.sharding.spmd import on_device_shards

STAGES, ROWS, WIDTH = 4, 8, 8


@pytest.mark.parametrize(
    ("schedule", "group", "ticks", "bubble", "is_full"),
    [
        (Schedule(stages=4, rounds=1, microbatches=8, layers=8), 2, 11, 3 / 11, True),
        # Interleaved: half the layers per group, so that the bubble is half as long.
        (Schedule(stages=4, rounds=2, microbatches=8, layers=8), 1, 19, 3 / 19, True),
        (Schedule(stages=2, rounds=1, microbatches=2, layers=5), 3, 3, 1 / 3, False),
    ],
)
def test_ticks_groups_and_bubble(schedule, group, ticks, bubble, is_full):
    assert (schedule.group, schedule.ticks, schedule.is_full) == (group, ticks, is_full)
    assert schedule.bubble == bubble


@pytest.mark.parametrize(("stages", "layers"), [(1, 8), (4, 1)])
def test_one_stage_or_a_single_layer_is_no_pipeline(stages, layers):
    assert pipelined(stages, 1, 4, layers) is None


def toy_layer(variables, xs, positions, segments):
    """y = tanh(x w) + position; counts tokens, the position's sum and which layer it was."""
    (x,), (p,) = xs, positions
    y = jnp.tanh(x @ variables["w"][...]) + p[:, :, None].astype(x.dtype)
    del segments
    return (y,), (jnp.float32(p.size), variables["number"][...] * p.size)


def pipeline(layers: int, rounds: int, microbatches: int):
    """Returns a jitted (w, numbers, x, positions) -> (x, counts) on four stages."""
    mesh = build_mesh(MeshConfig(pipe=STAGES), jax.devices()[:STAGES])
    placement = Placement(dict(mesh.shape), ShardingConfig(), rounds)
    schedule = pipelined(STAGES, rounds, microbatches, layers)
    rows = PartitionSpec(PIPE)

    def run(w, numbers, x, positions):
        state = nnx.State(
            {
                "w": nnx.Param(w, axes=("layers", "embed", "mlp")),
                "number": nnx.Param(numbers, axes=("layers",)),
            }
        )

        def local(state, x, positions):
            given = ((x,), (positions,), (positions,))
            in_order = placement.in_order(layers)
            (x,), counts = run_pipeline(toy_layer, None, state, given, schedule, in_order)
            return x, jax.tree.map(lambda c: c[None], counts)

        specs = (stored_specs(state, placement), rows, rows)
        return on_device_shards(local, mesh, in_specs=specs, out_specs=(rows, rows))(
            state, x, positions
        )

    return jax.jit(run), schedule


def inputs(layers: int):
    rng = np.random.default_rng(layers)
    w = rng.normal(size=(layers, WIDTH, WIDTH)).astype(np.float32)
    x = rng.normal(size=(ROWS, 3, WIDTH)).astype(np.float32)
    positions = rng.integers(0, 3, size=(ROWS, 3)).astype(np.int32)
    return w, np.arange(1, layers + 1, dtype=np.float32), x, positions


def in_a_loop(w, x, positions):
    for one in w:
        x = jnp.tanh(x @ one) + positions[:, :, None].astype(x.dtype)
    return x


CASES = [
    pytest.param(8, 1, 4, id="in order"),
    pytest.param(8, 1, 8, id="more microbatches than stages"),
    pytest.param(8, 2, 4, id="interleaved"),
    pytest.param(6, 1, 4, id="uneven"),
    pytest.param(9, 2, 4, id="uneven and interleaved"),
]


@pytest.mark.parametrize(("layers", "rounds", "microbatches"), CASES)
def test_every_row_goes_through_all_layers_in_order(layers, rounds, microbatches):
    w, numbers, x, positions = inputs(layers)
    run, _ = pipeline(layers, rounds, microbatches)
    got, _ = run(w, numbers, x, positions)
    np.testing.assert_allclose(got, in_a_loop(w, x, positions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layers", "rounds", "microbatches"), CASES)
def test_counts_are_those_of_real_items_at_their_layer(layers, rounds, microbatches):
    """Nothing of the bubble's repeats and of empty places is counted."""
    w, numbers, x, positions = inputs(layers)
    run, schedule = pipeline(layers, rounds, microbatches)
    _, counts = run(w, numbers, x, positions)
    # [stages, rounds, group] -> in the order of layers, then empty places.
    sizes, weighted = (np.asarray(c).swapaxes(0, 1).reshape(-1) for c in counts)
    empty = np.zeros(schedule.group * STAGES * rounds - layers)
    np.testing.assert_array_equal(sizes, [*[positions.size] * layers, *empty])
    np.testing.assert_array_equal(weighted, [*(numbers * positions.size), *empty])


@pytest.mark.parametrize(("layers", "rounds", "microbatches"), CASES[2:4])
def test_gradients_are_those_of_the_loop(layers, rounds, microbatches):
    w, numbers, x, positions = inputs(layers)
    run, _ = pipeline(layers, rounds, microbatches)
    got = jax.grad(lambda w, x: jnp.sum(run(w, numbers, x, positions)[0] ** 2), (0, 1))(w, x)
    want = jax.grad(lambda w, x: jnp.sum(in_a_loop(w, x, positions) ** 2), (0, 1))(w, x)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
