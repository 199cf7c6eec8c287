"""How fast a chip computes what our layers are made of: measured where we can, stated where not.

Peaks on paper are `gpus.py`, measured rates `calibration.py`, links `network.py`.
"""

from dataclasses import dataclass

from moe_jax.errors import UserError
from moe_jax.hardware.calibration import Calibration
from moe_jax.hardware.gpus import Gpu

#: Shares of the dense BF16 peak, used without a calibration. Matmuls: 780 to 795 TFLOP/s of an
#: H100's 989 in the best ones measured, and what XLA's own estimate assumes.
MATMUL_EFFICIENCY = 0.79
#: cuDNN, causal, head dim 128, 8k to 16k tokens on an H100: 529 to 539 TFLOP/s forward; 516 to 518
#: backward (not causal) where a backward counts as 2.5 forwards, so 414 for the 2 that we count.
#: FlashAttention-3 (Shah et al., 2024, arxiv.org/abs/2407.08608), figures 5 and 6.
ATTENTION_FORWARD_EFFICIENCY = 0.54
ATTENTION_BACKWARD_EFFICIENCY = 0.42
#: Our kernels of grouped matmuls (`moe/grouped/`): 694 TFLOP/s over an OLMoE layer forward and
#: backward, groups of random sizes, on an H100; 630 to 724 in single ones (its README.md).
GROUPED_EFFICIENCY = 0.70
#: Share of the memory's bandwidth; an assumption.
MEMORY_EFFICIENCY = 0.9


@dataclass(frozen=True)
class Rates:
    """Rates of one device. FLOPs as `model/flops.py` counts them, bytes read plus written."""

    matmul_flops_per_s: float
    #: Of the kernels of grouped matmuls, which exist for Hopper only.
    grouped_flops_per_s: float
    attention_forward_flops_per_s: float
    #: Of twice the forward's FLOPs.
    attention_backward_flops_per_s: float
    memory_bytes_per_s: float
    gather_bytes_per_s: float
    #: Where the rates come from, for lists of assumptions.
    source: str

    def grouped_s(self, flops: float, nbytes: float) -> float:
        """Return the seconds of a grouped matmul: of its arithmetic or memory, the longer one."""
        return max(flops / self.grouped_flops_per_s, nbytes / self.memory_bytes_per_s)


def rates_for(gpu: Gpu, calibration: Calibration | None = None) -> Rates:
    """Return the rates of a GPU: measured ones, or stated shares of the peaks on paper.

    Args:
        gpu: whose rates.
        calibration: measured on such a GPU; without one, paper.

    Raises:
        UserError: the calibration is of another GPU.
    """
    if calibration is None:
        return _on_paper(gpu)
    if calibration.gpu != gpu.name:
        raise UserError(
            f"the calibration was measured on {calibration.gpu!r} and the target is {gpu.name!r}: "
            f"calibrate on {gpu.name!r}, or leave the calibration out"
        )
    grouped, told = calibration.grouped_flops_per_s, ""
    if grouped is None:
        grouped = GROUPED_EFFICIENCY * gpu.peak_bf16_flops
        told = f"; grouped matmuls not measured: {GROUPED_EFFICIENCY:.0%} of the BF16 peak"
    return Rates(
        calibration.matmul_flops_per_s,
        grouped,
        calibration.attention_forward_flops_per_s,
        calibration.attention_backward_flops_per_s,
        calibration.memory_bytes_per_s,
        calibration.gather_bytes_per_s,
        f"rates measured on {calibration.hardware}, {calibration.date}{told}",
    )


def _on_paper(gpu: Gpu) -> Rates:
    peak, memory = gpu.peak_bf16_flops, MEMORY_EFFICIENCY * gpu.memory_bandwidth
    return Rates(
        MATMUL_EFFICIENCY * peak,
        GROUPED_EFFICIENCY * peak,
        ATTENTION_FORWARD_EFFICIENCY * peak,
        ATTENTION_BACKWARD_EFFICIENCY * peak,
        memory,
        memory,
        f"rates not measured: matmul {MATMUL_EFFICIENCY:.0%}, grouped matmul "
        f"{GROUPED_EFFICIENCY:.0%}, attention forward "
        f"{ATTENTION_FORWARD_EFFICIENCY:.0%} and backward {ATTENTION_BACKWARD_EFFICIENCY:.0%} of "
        f"the BF16 peak, elementwise and gathers {MEMORY_EFFICIENCY:.0%} of the memory bandwidth",
    )
