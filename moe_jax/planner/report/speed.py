"""Speed of a program from the time of its step: tokens per second, FLOP/s and MFU. *Modelled*."""

from moe_jax.config.schema import Config
from moe_jax.model.flops import flops_per_token
from moe_jax.planner.compile.target import Target
from moe_jax.planner.report.figures import Mode, Predicted


def step_length(config: Config, mode: Mode) -> int:
    """Return how many tokens of each sequence a step works on: all, or the newest to decode."""
    return 1 if mode == "decode" else config.data.sequence_length


def step_tokens(config: Config, mode: Mode) -> int:
    """Return the tokens that a step works on, over all devices."""
    return config.train.global_batch * step_length(config, mode)


def predict(step_s: float, config: Config, target: Target, mode: Mode) -> Predicted:
    """Return the speed of a whole cluster, and the FLOP/s of each device.

        tokens/s = tokens / step
        FLOP/s   = tokens x model FLOPs per token / step / devices
        MFU      = FLOP/s / the chip's dense BF16 peak

    A decode step yields one token per sequence, and only that token's FLOPs are model FLOPs,
    however much the program computes again.

    Args:
        step_s: seconds of one call of the program.
        config: model and batch.
        target: devices, and their peak.
        mode: what the program does.
    """
    per_token, tokens = flops_per_token(config), step_tokens(config, mode)
    flops = per_token.total_training if mode == "train" else per_token.total_forward
    rate = tokens * flops / step_s / target.devices
    return Predicted(
        kind="modelled",
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        tflops_per_device=rate / 1e12,
        mfu=rate / target.gpu.peak_bf16_flops,
    )
