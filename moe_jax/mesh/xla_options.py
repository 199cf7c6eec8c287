"""The one place of XLA compiler options this project depends on, each with its reason.

Every entry point that compiles for GPUs (training, inference, planner) takes them from here.
Environment flags of a deviceless compile live in `planner/compile/target.py`; NCCL's and JAX's own
environment variables do not live here.
"""

#: Options of every GPU compile. The overlap of communication and compute rests on them.
_GPU = {
    # Starts collectives early and waits late. Hopper's default turns itself off as soon as the
    # program holds a collective outside XLA's short list (one ragged_all_to_all is enough).
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # The dot merger joins matmuls that share a weight, which is what the streams of a layer do:
    # all dispatches, one matmul, all combines, and nothing left to hide behind. 0 MB = off.
    "xla_gpu_dot_merger_threshold_mb": 0,
    # The scheduler gives up overlap to save memory long before memory runs out: it budgets for a
    # donated training state twice. Compiled for paper_ep16's training step: 31.6 % of a backward
    # layer's all-to-all exposed at 66.5 GiB with the default (95), 0.6 % at 67.7 GiB with this.
    "xla_gpu_memory_limit_slop_factor": 130,
}

#: Added where no GPU is present.
_DEVICELESS = {
    # Autotuning times kernels on the device.
    "xla_gpu_autotune_level": 0,
    # Without it the scheduler costs every collective at a constant, whatever its bytes and links.
    "xla_gpu_enable_analytical_sol_latency_estimator": True,
}

#: Share of a GPU's memory that JAX may take. Its default, 0.75, is 59 GiB of an H100, on which
#: paper_ep16's training step (56 GiB, compiled) ran out of memory; CUDA's context, NCCL's buffers
#: and loaded kernels need the rest.
MEMORY_FRACTION = 0.92

_GPU_PLATFORMS = ("gpu", "cuda")


def compiler_options(platform: str) -> dict[str, bool | int]:
    """Options for `jax.jit(..., compiler_options=...)` and `Lowered.compile`.

    Args:
        platform: `jax.default_backend()` or a lowering platform: "cpu", "gpu" or "cuda".

    Returns:
        A fresh dict; empty on CPU, whose compiler refuses GPU options.

    Raises:
        ValueError: for a platform whose options nobody has established.
    """
    if platform in _GPU_PLATFORMS:
        return dict(_GPU)
    if platform == "cpu":
        return {}
    raise ValueError(
        f"no XLA options are known for platform {platform!r}: use one of "
        f"{', '.join(('cpu', *_GPU_PLATFORMS))}, or add its options to moe_jax/mesh/xla_options.py"
    )


def target_options() -> dict[str, bool | int]:
    """Options for compiling for a GPU that is not there: the GPU's, and what stands in for it."""
    return _GPU | _DEVICELESS
