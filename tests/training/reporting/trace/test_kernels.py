"""Names of kernels that were seen on H100s, and of a CPU's operations."""

import pytest

from moe_jax.training.reporting.trace.events import Kernel
from moe_jax.training.reporting.trace.kernels import KINDS, OTHER, PRODUCTS, collective, kind_of


@pytest.mark.parametrize(
    ("name", "op", "kind"),
    [
        (
            "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
            "all-to-all-start.3",
            "all-to-all",
        ),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "", "send, receive"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(...)", "", "all-reduce"),
        ("ncclDevKernel_AllGather_RING_LL(...)", "all-gather-start", "all-gather"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(...)", "", "reduce-scatter"),
        ("MemcpyD2D", "collective-permute-start.1", "collective-permute"),
        ("psum_invariant.7", "psum_invariant.7", "all-reduce"),
        ("all_to_all.2", "all_to_all.2", "all-to-all"),
        ("loop_gather_fusion", "loop_gather_fusion", ""),
        ("input_scatter_fusion", "input_scatter_fusion", ""),
    ],
)
def test_collectives_are_told_apart(name, op, kind):
    assert collective(Kernel(name, op, 0, 1)) == kind


@pytest.mark.parametrize(
    ("name", "op", "kind"),
    [
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "cublas-gemm.4", "matmul"),
        ("gemm_fusion_dot_12", "gemm_fusion_dot_12", "matmul"),
        ("dot.3", "dot.3", "matmul"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "custom-call.9", "attention"),
        ("mosaic_gpu_kernel", "custom-call.2", "grouped matmul"),
        ("cub::DeviceRadixSortOnesweepKernel", "sort.1", "sort, scatter, gather"),
        ("loop_dynamic_update_slice_fusion_2", "", "sort, scatter, gather"),
        ("loop_add_fusion", "loop_add_fusion", OTHER),
        ("MemcpyD2D", "copy.8", OTHER),
    ],
)
def test_compute_is_told_apart(name, op, kind):
    assert kind_of(Kernel(name, op, 0, 1)) == kind
    assert kind in KINDS


def test_kernels_of_one_name_are_told_apart_by_where_they_are_called():
    scopes = ("jit(train)/layers/attention/pallas_call", "jit(train)/layers/moe/pallas_call")
    kernels = [Kernel("mosaic_gpu_kernel", "custom-call.2", 0, 1, scope) for scope in scopes]
    assert [kind_of(kernel) for kernel in kernels] == ["attention", "grouped matmul"]
    projection = Kernel("nvjet_tst", "gemm.2", 0, 1, "jit(train)/layers/attention/dot_general")
    assert kind_of(projection) == "matmul"


def test_products_are_kinds():
    assert set(PRODUCTS) < set(KINDS)
