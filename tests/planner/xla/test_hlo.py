"""Reading a compiled program's text: shapes, callers, the inventory of collectives."""

import pytest
from support.planner.compiles import collectives
from support.planner.hand_hlo import HLO
from support.planner.hand_kernels import CODE, KERNELS

from moe_jax.planner.xla.hlo import parse_hlo, shape_bytes, without_code


def test_inventory_names_what_moves_between_whom_and_where():
    found = {c.name: c for c in collectives(HLO)}
    assert list(found) == ["round-start", "first-start", "bare-start", "gather-start", "permuted"]
    first, gather = found["first-start"], found["gather-start"]
    assert (first.kind, first.computation, first.context) == ("all-to-all", "body", ("while",))
    assert (first.operand_bytes, first.result_bytes, first.is_async) == (64, 64, True)
    assert (gather.operand_bytes, gather.result_bytes, gather.context) == (64, 256, ())
    assert found["round-start"].context == ("while", "conditional")


def test_collectives_that_block_are_not_async():
    blocking = {c.name for c in collectives(HLO) if not c.is_async}
    assert blocking == {"gather-start", "permuted"}


def test_device_groups_in_every_printed_form():
    groups = {c.name: c.groups for c in collectives(HLO)}
    assert groups["first-start"] == ((0, 2), (1, 3))
    assert groups["bare-start"] == ((0, 1), (2, 3))
    assert groups["permuted"] == ((0, 1), (1, 0))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[8,4]{1,0}", 64),
        ("f8e4m3fn[16]{0}", 16),
        ("s4[3]{0:E(4)}", 2),
        ("pred[]", 1),
        ("((f32[2]{0}), /*index=1*/u32[])", 12),
        ("token[]", 0),
    ],
)
def test_bytes_of_printed_shapes(shape, size):
    assert shape_bytes(shape) == size


def test_operands_are_those_of_the_call_not_of_its_attributes():
    body = parse_hlo(HLO)["body"].by_name
    assert body["mm.1"].operands == ("x", "w")
    assert body["cond"].operands == ("i", "copy.1", "copy.1")


def test_kernels_code_is_cut_out_of_hlo_and_of_proto_text():
    assert CODE in KERNELS
    escaped = KERNELS.replace("\\", "\\\\").replace('"', '\\"')
    for text in (KERNELS, escaped):
        assert "to_apply" not in without_code(text)
        assert without_code(text).count("use_custom_barrier = false}") == 2
    cut = parse_hlo(without_code(KERNELS))["main"].by_name["down"]
    assert (cut.opcode, cut.operands) == ("custom-call", ("x", "w"))


def test_unscheduled_program_is_refused():
    with pytest.raises(ValueError, match="not scheduled"):
        parse_hlo(HLO.replace(", is_scheduled=true", ""))
