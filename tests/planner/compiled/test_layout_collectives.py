"""Compiled collectives are what the layout says: each array that moves is one that was expected, as
often and as large as expected, and nothing else moves."""

import dataclasses
from functools import cache

import pytest
from support.planner.hand_hlo import HLO
from support.planner.layout_expectations import expected_of
from support.planner.layout_programs import (
    LAYOUTS,
    SURPRISE_BYTES,
    SURPRISED,
    TARGET,
    config,
    surprising_step,
    training_step,
)
from support.planner.layout_sizes import Size
from support.planner.moved_arrays import NO_AXES, Array, Expected, explain, moved_arrays

from moe_jax.axes import EXPERT, PIPE, TENSOR
from moe_jax.config.schema import MeshConfig

compiles = [pytest.mark.compile_target, pytest.mark.slow]


@cache
def moved(layout: str) -> tuple[Array, ...]:
    return moved_arrays(training_step(layout), config(layout).mesh)


def times(arrays, **fields) -> int:
    return sum(a.times for a in arrays if all(getattr(a, k) == v for k, v in fields.items()))


class TestCompiled:
    pytestmark = compiles

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_everything_that_moves_is_explained(self, layout):
        explain(moved(layout), expected_of(layout))

    @pytest.mark.parametrize("layout", ["expert", "fsdp x expert", "expert x tensor"])
    def test_rows_cross_twice_forward_and_three_times_backward(self, layout):
        size, arrays = Size(config(layout)), moved(layout)
        slices = size.layers * size.streams
        rows = {"kind": "all-to-all", "bytes": size.slots * size.norm}
        assert times(arrays, **rows, phase="forward") == 2 * slices
        assert times(arrays, **rows, phase="backward") == 3 * slices
        # Two of the three moves back are those of gradients; the third's scalars are small.
        assert times(arrays, kind="all-to-all", dtype="f32", phase="forward") == 0

    @pytest.mark.parametrize("layout", ["fsdp x expert", "fsdp x expert, everything kept"])
    def test_parameters_are_gathered_again_for_backward(self, layout):
        size, arrays = Size(config(layout)), moved(layout)
        for bytes_, each in ((size.projection, 4), (size.experts // 4, 2)):
            for phase in ("forward", "backward"):
                gathers = times(arrays, kind="all-gather", bytes=bytes_, phase=phase)
                assert gathers == each * size.layers

    @pytest.mark.parametrize("layout", ["tensor", "tensor, whole sequences", "expert x tensor"])
    def test_tensor_parallelism_stays_inside_a_host(self, layout):
        along = [a for a in moved(layout) if a.axes == (TENSOR,)]
        assert along
        for array in along:
            for group in array.groups:
                assert len({TARGET.topology.host_of(device) for device in group}) == 1

    def test_whole_sequences_are_summed_and_never_gathered(self):
        kinds = {a.kind for a in moved("tensor, whole sequences") if TENSOR in a.axes}
        assert kinds == {"all-reduce"}

    def test_stages_only_meet_between_ticks(self):
        arrays = moved("pipe x expert")
        in_loops = [a for a in arrays if a.times > 1]
        assert {a.kind for a in in_loops if PIPE in a.axes} == {"collective-permute"}
        assert {a.axes for a in in_loops} == {(PIPE,), (EXPERT,)}
        assert {a.axes for a in arrays if a.kind == "collective-permute"} == {(PIPE,)}

    def test_a_row_crosses_the_expert_axis_once_for_the_whole_tensor_axis(self):
        """Half the tokens on each of two devices: what they send adds up to one device's rows.

        But for rounding: places from all 4 sources are a multiple of 8.
        """
        both = config("expert x tensor")
        alone = both.model_copy(update={"mesh": both.mesh.model_copy(update={"tensor": 1})})
        exchanged = [a for a in moved("expert x tensor") if a.kind == "all-to-all"]
        assert {a.axes for a in exchanged} == {(EXPERT,)}
        rows = {a.bytes for a in exchanged if a.dtype == "bf16"}
        assert rows == {Size(both).slots * Size(both).norm}
        assert 0 <= 2 * Size(both).places - Size(alone).places <= 2

    def test_an_activation_that_xla_gathers_silently_is_a_surprise(self):
        arrays = moved_arrays(surprising_step(), SURPRISED)
        gathered = rf"nothing explains 1 x all-gather of bf16, {SURPRISE_BYTES} bytes over"
        with pytest.raises(AssertionError, match=gathered):
            explain(arrays, ())

    def test_a_gather_of_activations_is_no_part_of_expert_parallelism(self):
        """The same arrays, one of which is gathered where rows should have been exchanged."""
        arrays = moved("expert")
        row = next(a for a in arrays if (a.kind, a.dtype) == ("all-to-all", "bf16"))
        gathered = dataclasses.replace(row, kind="all-gather")
        surprised = [gathered if a is row else a for a in arrays]
        with pytest.raises(AssertionError) as found:
            explain(surprised, expected_of("expert"))
        message = str(found.value)
        assert f"nothing explains {row.times} x all-gather of bf16, {row.bytes} bytes" in message
        assert "rows: 20 expected, 18 found" in message


#: 4 devices as the hand-written program's groups see them.
FOUR = MeshConfig(data=2, expert=2)


def test_arrays_of_a_program_are_named_by_kind_axes_and_bytes():
    arrays = moved_arrays(HLO, FOUR)
    assert [(a.kind, a.axes, a.bytes) for a in arrays] == [
        ("all-to-all", ("data",), 64),
        ("all-to-all", (EXPERT,), 64),
        ("all-gather", ("data", EXPERT), 256),
        # Devices 2 and 3 do not take part: no ring of any axis.
        ("collective-permute", NO_AXES, 64),
    ]


def entry(kind, axes, bytes_, times=1):
    return Expected("it", kind, axes, "bf16", bytes_, times)


ALL_OF_IT = (
    entry("all-to-all", ("data",), 64),
    entry("all-to-all", (EXPERT,), 64),
    entry("all-gather", ("data", EXPERT), 256),
    entry("collective-permute", NO_AXES, 64),
)


def test_a_program_that_is_explained_passes():
    explain(moved_arrays(HLO, FOUR), ALL_OF_IT)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (ALL_OF_IT[1:], r"nothing explains 1 x all-to-all of bf16, 64 bytes over \('data',\)"),
        ((*ALL_OF_IT, entry("all-reduce", ("data",), 64)), "it: 64 expected, 0 found"),
        ((*ALL_OF_IT, ALL_OF_IT[2]), "it, it: 2 expected, 1 found"),
        ((*ALL_OF_IT[:2], entry("all-gather", ("data", EXPERT), 64)), "nothing explains 1 x all-g"),
    ],
)
def test_what_is_missing_or_surplus_is_named(expected, message):
    with pytest.raises(AssertionError, match=message):
        explain(moved_arrays(HLO, FOUR), expected)
