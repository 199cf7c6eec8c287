"""FLOPs and bytes of instructions, in hand-written HLO."""

import dataclasses

import pytest
from support.planner.hand_hlo import HLO
from support.planner.hand_kernels import KERNELS
from support.planner.hand_loops import LOOPS, attention

from moe_jax.errors import UserError
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.hardware.rates import rates_for
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.work import (
    InstructionWork,
    is_in_place_scatter,
    is_mixed_matmul,
    seconds,
    work_of,
)

MODULE = parse_hlo(LOOPS)
ARRAY = 64 * 64 * 2
INDEX = 4


def work(name, computation, module=MODULE):
    return work_of(module[computation].by_name[name], module[computation], module)


def test_fusion_with_a_product_reads_only_the_slice_it_takes():
    assert work("mm", "inner") == InstructionWork("matmul", 2 * 64**3, 3 * ARRAY + INDEX)


def test_gather_reads_as_much_as_it_returns():
    rows = 32 * 64 * 2
    assert work("picked", "main") == InstructionWork("gather", 0, 2 * rows + 32 * INDEX)


#: Two of a cache's rows are written where they are.
SCATTER = """\
HloModule cache, is_scheduled=true

%sum (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  ROOT %b = bf16[] parameter(1)
}

%fused (cache: bf16[1000,64], at: s32[2,1], new: bf16[2,64]) -> bf16[1000,64] {
  %cache = bf16[1000,64]{1,0} parameter(0)
  %at = s32[2,1]{1,0} parameter(1)
  %new = bf16[2,64]{1,0} parameter(2)
  ROOT %put = bf16[1000,64]{1,0} scatter(%cache, %at, %new), to_apply=%sum
}

ENTRY %main (cache: bf16[1000,64], at: s32[2,1], new: bf16[2,64]) -> bf16[1000,64] {
  %cache.1 = bf16[1000,64]{1,0} parameter(0)
  %at.1 = s32[2,1]{1,0} parameter(1)
  %new.1 = bf16[2,64]{1,0} parameter(2)
  ROOT %written = bf16[1000,64]{1,0} fusion(%cache.1, %at.1, %new.1), kind=kInput, calls=%fused
}
"""


def test_scatter_into_a_cache_touches_what_it_writes():
    module = parse_hlo(SCATTER)
    rows = 2 * 64 * 2
    assert work("written", "main", module) == InstructionWork("other", 0, 2 * rows + 2 * INDEX)
    assert is_in_place_scatter(module["main"].by_name["written"], module)
    assert not is_in_place_scatter(MODULE["main"].by_name["picked"], MODULE)


def test_library_product_contracts_what_its_configuration_says():
    config = '"lhs_contracting_dimensions":["1"]'
    text = HLO.replace('"__cublas$gemm"', f'"__cublas$gemm", backend_config={{{config}}}')
    assert work("mm.2", "body", parse_hlo(text)).flops == 2 * 8 * 4 * 4


@pytest.mark.parametrize(("window", "context"), [(0, 4.5), (1, 1), (8, 4.5)])
def test_attention_counts_what_the_causal_mask_and_the_window_leave(window, context):
    lines = attention("fmha", "__cudnn$fmhaSoftmax", window)
    lines += attention("gradient", "__cudnn$fmhaSoftmaxBackward", window)
    module = parse_hlo(LOOPS.replace(attention("fmha", "__cudnn$fmhaSoftmax"), lines))
    forward, backward = (work(name, "layer", module) for name in ("fmha", "gradient"))
    assert forward.kind == "attention_forward"
    assert forward.flops == 4 * (2 * 8 * 4) * context
    assert backward == dataclasses.replace(
        forward, kind="attention_backward", flops=2 * forward.flops
    )


def test_kernel_of_ours_does_what_it_says_and_touches_what_it_reads_and_writes():
    module = parse_hlo(KERNELS)
    single, gated = (work(name, "main", module) for name in ("down", "gated"))
    assert single == InstructionWork("matmul_grouped", 2 * 64**3, 3 * ARRAY)
    assert gated == InstructionWork("matmul_grouped", 4 * 64**3, 5 * ARRAY)
    assert work("hidden", "main", module) == InstructionWork("other", 0, 0)


def test_kernel_of_unknown_kind_is_refused():
    module = parse_hlo(KERNELS.replace("matmul_grouped", "convolution"))
    with pytest.raises(
        UserError, match="down says that it is 'convolution': make it one of matmul"
    ):
        work("down", "main", module)


def test_of_calls_that_share_documents_the_longest_class_counts():
    line = attention("fmha", "__cudnn$fmhaSoftmax")
    shorter = line.replace("jit(f)/attention", "jit(f)/shorter_documents/attention")
    found = work("fmha", "layer", parse_hlo(LOOPS.replace(line, shorter)))
    assert (found.kind, found.flops) == ("attention_forward", 0)
    assert found.bytes == work("fmha", "layer").bytes > 0


def test_control_flow_is_no_work_of_its_own():
    assert work("forward", "main") == work("branch", "layer") == InstructionWork("other", 0, 0)


def test_time_is_that_of_arithmetic_or_of_memory():
    rates = rates_for(gpu_by_name("h100"))
    assert seconds(InstructionWork("matmul", 10**15, 1), rates) == 1e15 / rates.matmul_flops_per_s
    assert seconds(InstructionWork("matmul", 1, 10**12), rates) == 1e12 / rates.memory_bytes_per_s
    grouped = InstructionWork("matmul_grouped", 10**15, 1)
    assert seconds(grouped, rates) == 1e15 / rates.grouped_flops_per_s
    slow = dataclasses.replace(rates, gather_bytes_per_s=1e9)
    assert seconds(InstructionWork("gather", 0, 10**9), slow) == 1
    assert seconds(InstructionWork("attention_backward", 10**12, 0), slow) == pytest.approx(
        1e12 / rates.attention_backward_flops_per_s
    )


@pytest.mark.parametrize(
    ("operands", "result", "mixed"),
    [("bf16", "f32", True), ("bf16", "bf16", False), ("f32", "f32", False)],
)
def test_products_of_bfloat16_into_float32_are_mixed(operands, result, mixed):
    text = LOOPS.replace("bf16", operands)
    text = text.replace(f"%mm = {operands}", f"%mm = {result}")
    module = parse_hlo(text)
    assert is_mixed_matmul(module["inner"].by_name["mm"], module["inner"], module) == mixed
