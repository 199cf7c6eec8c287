"""Counts per device under any mesh, by hand and against the model's own."""

from dataclasses import replace

import jax
import pytest
from support.exchange.jaxprs import equations_of
from support.model_cases import configured, parallel_of
from support.planner.layer_models import MOE
from support.planner.layer_models import share_of as share
from support.training_cases import small_config

from moe_jax.config import Config, override
from moe_jax.mesh.build import build_mesh
from moe_jax.model.flops import total_parameters
from moe_jax.model.pattern import LayerSpec
from moe_jax.planner.compile.programs import decode
from moe_jax.planner.modelled.per_device import Share, pipeline_schedule

TP8_PP2 = ("mesh.expert=1", "mesh.tensor=8", "mesh.pipe=2", "exchange.streams=1")


def test_paper_ep16_by_hand():
    found = share()
    assert (found.tokens, found.stream_tokens) == (80_000, 10_000)
    assert found.transport.name == "all_to_all"
    # 16 sources send 1,563 rows each: 10,000 tokens x 2 / 16 experts x 1.25, rounded up.
    # An expert's rows from all sources are a multiple of 8, so each source's of 1.
    assert found.slots == found.arrivals == found.rows == found.computed_rows == 16 * 1563
    assert not found.is_grouped
    assert found.layers == {MOE: 16}
    assert found.parameters.experts[MOE] == 2 * 4096 * 16384


@pytest.mark.parametrize(
    "mesh",
    [
        {"expert": 16},
        {"data": 2, "expert": 8},
        {"fsdp": 2, "expert": 8},
        {"tensor": 8, "data": 2},
        {"pipe": 2, "tensor": 8},
    ],
)
def test_devices_together_hold_the_model_and_its_copies(mesh):
    axes = {"pipe": 1, "data": 1, "fsdp": 1, "expert": 1, "tensor": 1} | mesh
    found = share(*(f"mesh.{axis}={size}" for axis, size in axes.items()))
    each, stages = found.parameters, axes["pipe"]
    split = axes["fsdp"] * axes["tensor"]
    dense = each.dense[MOE] * found.layers[MOE] * stages * split
    experts = each.experts[MOE] * found.layers[MOE] * stages * split * axes["expert"]
    # The final norm is left out: 4,096 elements.
    whole = dense + experts + each.ends * split
    assert whole == pytest.approx(total_parameters(found.config), abs=4096)


def test_microbatches_share_the_batch():
    assert share("train.accumulation=2").tokens == 40_000
    tuned = share(name="paper_baseline_tuned")
    assert tuned.tokens == 80_000
    assert tuned.stage_tokens == 1_280_000
    # Outside the pipeline the pipe axis is one more batch axis.
    assert tuned.outside_tokens == 640_000


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"global_batch \(128\) .* multiple of 256 .*\(16\)$"):
        _ = share("train.accumulation=16").tokens


def test_pipeline_runs_each_of_its_layers_on_every_microbatch():
    tuned = share(name="paper_baseline_tuned")
    assert pipeline_schedule(tuned.config).ticks == 65
    assert tuned.runs == {MOE: 16 * 4 * 2}
    assert share().runs == {MOE: 16}
    # A leading dense layer is outside the pipeline, half of its tokens on each stage.
    layers = ("model.layers=['dense', 'moe', 'moe', 'moe']", "model.num_layers=4")
    mixed = share(*layers, "pipeline.virtual_stages=1", name="paper_baseline_tuned")
    # Three layers on two stages: the second one has an empty place, and waits.
    assert mixed.runs == {LayerSpec("dense", 0): 16 / 2, MOE: 16 * 2}


def test_local_rows_are_those_of_the_tensor_axis():
    """Exactly: whatever the routing, they are as many, so nothing needs room."""
    tuned = share(name="paper_baseline_tuned")
    assert tuned.is_grouped
    assert tuned.arrivals == tuned.tokens
    assert tuned.rows == tuned.computed_rows == 2 * tuned.tokens


def test_rows_that_travel_are_a_devices_own_and_computed_by_its_tensor_axis():
    found = share("mesh.expert=8", "mesh.tensor=2")
    whole = share("mesh.expert=8", "mesh.data=2")
    # Twice the tokens per shard, half of them on each device of the tensor axis.
    assert found.slots == pytest.approx(whole.slots, rel=1e-3)
    assert found.arrivals == 2 * found.slots


def test_grouped_experts_have_room_for_the_busy_and_compute_the_mean():
    found = share("mesh.expert=8", "mesh.data=2")
    # A token visits 8 x (1 - (14 x 13) / (16 x 15)) = 1.933 of 8 devices, with 2 choices.
    visits = 8 * (1 - 14 * 13 / (16 * 15))
    assert found.slots == pytest.approx(1.25 * 10_000 * visits, rel=1e-3)
    assert found.rows == pytest.approx(1.25 * 10_000 * 2, rel=1e-3)
    assert found.computed_rows == 10_000 * 2


def test_a_busy_expert_costs_rounds_of_an_eighth():
    # (1 + skew) / 1.25 - 1 main rounds too many.
    assert [share().further_rounds(skew) for skew in (0, 0.25, 0.3, 1.5)] == [0, 0, 1, 8]
    assert share("exchange.overflow='drop'").further_rounds(2) == 0


def test_what_an_expert_has_too_many_its_neighbours_on_the_device_leave():
    pair = share("mesh.expert=8", "mesh.data=2")
    assert pair.skew_of_device(0.5) == 0.25
    assert pair.further_rounds(0.5) == 0
    assert share(name="paper_baseline_tuned").skew_of_device(3) == 0


def test_sequence_parallelism_splits_activations():
    assert share(*TP8_PP2).token_shards == 8
    assert share(*TP8_PP2, "sharding.sequence=whole").token_shards == 1


def test_dense_parameters_over_the_expert_axis():
    plain, split = share(), share("sharding.dense=fsdp_expert")
    assert split.parameters.dense[MOE] == plain.parameters.dense[MOE] / 16
    assert split.parameters.experts == plain.parameters.experts


@pytest.mark.parametrize("name", ["paper_ep16", "paper_ep16_x8", "paper_baseline_tuned"])
def test_zero_leaves_one_copy_of_the_optimisers_state(name):
    found = share(name=name)
    mesh, state = found.config.mesh, found.optimizer_state
    shards = mesh.pipe * mesh.data * mesh.fsdp * mesh.expert * mesh.tensor
    whole = sum(n * (state.dense[s] + state.experts[s]) for s, n in found.layers.items())
    total = (whole + state.ends) * shards
    assert total == pytest.approx(total_parameters(found.config), rel=1e-4)
    kept = share("sharding.optimizer=parameter", name=name)
    assert kept.optimizer_state == kept.parameters


def test_layers_that_are_not_stored_in_order_are_handed_out():
    assert share(name="paper_baseline_tuned").hands_out
    assert not share(name="paper_baseline_tp8_pp2").hands_out
    assert share("model.num_layers=15", name="paper_baseline_tp8_pp2").hands_out
    assert not share().hands_out


def test_decode_serves_one_token_per_sequence_from_a_cache():
    found = share(mode="decode")
    assert found.tokens == 8
    assert found.cache_values(MOE) == 8 * 10_000 * 2 * 4096


EP4 = (
    "mesh.expert=4",
    "model.num_layers=3",
    "model.moe.num_experts=8",
    "train.global_batch=32",
    "data.sequence_length=100",
    "exchange.streams=2",
    "exchange.transport=all_to_all",
    "train.accumulation=2",
)


@pytest.mark.parametrize(
    ("changes", "mode", "passes", "streams", "tokens"),
    [
        # 32 sequences over 2 microbatches, 2 streams and 4 devices: 2 of 100 tokens.
        ((), "forward", 2, 2, 200),
        ((), "decode", 1, 1, 8),
        (("mesh.tensor=2",), "decode", 1, 1, 8),
        (("mesh.pipe=2", "pipeline.microbatches=2", "mesh.tensor=2"), "forward", 4, 2, 50),
        (
            ("mesh.pipe=2", "pipeline.microbatches=2", "mesh.tensor=2", "sharding.sequence=whole"),
            "forward",
            4,
            2,
            100,
        ),
    ],
)
def test_what_one_exchange_of_a_device_routes(changes, mode, passes, streams, tokens):
    found = Share(override(Config(), [*EP4, *changes]), mode)
    assert found.accumulation * found.schedule.microbatches == passes
    assert (found.streams, found.routed_tokens) == (streams, tokens)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("exchange.transport=auto", "model.moe.top_k=6"),
        ("exchange.transport=auto",),
        ("mesh.expert=4", "mesh.tensor=2", "exchange.streams=2"),
        ("mesh.expert=2", "mesh.pipe=2", "pipeline.microbatches=4", "exchange.streams=2"),
        ("mesh.expert=1", "mesh.tensor=2"),
        ("mesh.expert=2", "exchange.transport=local"),
    ],
)
def test_a_step_counts_the_exchange_that_its_program_resolves(changes):
    config = configured("mesh.expert=8", "model.vocab_size=32", *changes)
    assert Share(config, "forward").exchange == replace(parallel_of(config).exchange_spec, hosts=())


def test_decode_of_the_paper_takes_every_routing_in_one_round():
    # 8 tokens for each of 16 experts: a token may choose any two of them.
    assert share(mode="decode").slots == 16 * 8
    assert share().slots == 16 * 1563


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("exchange.capacity_factor=1.5",),
        # A position is not split along the sequence: each device of the axis sends all rows.
        ("mesh.expert=4", "mesh.tensor=2"),
        # More rows than are free: the capacity factor counts.
        ("train.global_batch=1024",),
    ],
)
def test_decode_counts_the_rows_that_its_program_exchanges(changes):
    config = small_config("exchange.transport=all_to_all", "train.global_batch=64", *changes)
    shape = config.model_dump(mode="json")
    program, arguments = decode(build_mesh(config.mesh, jax.devices()), shape, 4)
    moves = [
        equation.invars[0].aval.shape
        for equation in equations_of(program.trace(*arguments).jaxpr)
        if str(equation.primitive) == "all_to_all"
    ]
    # Those of further rounds are smaller.
    dispatched = max(rows for rows, width in moves if width == config.model.d_model)
    (message,) = Share(config, "decode").messages
    width, dtype = config.model.d_model, config.precision.compute
    assert dispatched == message.rows_with_numbers(width, dtype)
