"""Speed of a program from the time of its step: tokens per second, FLOP/s and MFU. *Modelled*."""

from moe_jax.config.schema import Config
from moe_jax.model.flops import flops_per_token
from moe_jax.planner.compile.target import Target
from moe_jax.planner.report.figures import Predicted
from moe_jax.planner.report.results import Mode


def predict(step_s: float, config: Config, target: Target, mode: Mode) -> Predicted:
    """Speed of a whole cluster, and FLOP/s of each device.

        tokens/s = tokens / step
        FLOP/s   = tokens x model FLOPs per token / step / devices
        MFU      = FLOP/s / the chip's dense BF16 peak

    A decode step yields one token per sequence, and only that token's FLOPs are model FLOPs,
    however much the program computes again.

    Args:
        step_s: seconds of one call of the program.
    """
    per_token = flops_per_token(config)
    tokens = config.train.global_batch * config.data.sequence_length
    flops = per_token.total_training if mode == "train" else per_token.total_forward
    if mode == "decode":
        tokens = config.train.global_batch
    rate = tokens * flops / step_s / target.devices
    return Predicted(
        kind="modelled",
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        tflops_per_device=rate / 1e12,
        mfu=rate / target.gpu.peak_bf16_flops,
    )
