"""Which implementation computes attention, decided once, before anything compiles."""

import logging

from jax.sharding import Mesh

from moe_jax.config.model_rules import cudnn_needs
from moe_jax.config.schema import Config
from moe_jax.errors import UserError
from moe_jax.model.flops import query_width, value_width
from moe_jax.nn.dot_attention import Implementation
from moe_jax.nn.dot_attention.cudnn import served_widths

logger = logging.getLogger(__name__)

#: Compute capability of the GPUs whose every feature is known to work.
HOPPER = "9.0"
#: Widest heads whose gradients cuDNN computes on GPUs other than Hopper.
NARROW = 128


def attention_implementation(
    config: Config, platform: str, capability: str | None = None
) -> Implementation:
    """Return how attention is computed on a platform, "auto" resolved, and log why.

    Args:
        config: a checked config.
        platform: "cpu" or "gpu".
        capability: of the GPUs, such as "9.0"; None where nobody knows: taken for Hopper.

    Raises:
        UserError: cuDNN is asked for where it cannot run.
    """
    wanted = config.model.attention.implementation
    missing = _missing(config, platform, capability or HOPPER)
    if wanted == "cudnn" and missing:
        raise UserError(
            f"model.attention.implementation = cudnn needs {' and '.join(missing)}: change that, "
            "or set model.attention.implementation to auto or xla"
        )
    if wanted != "auto":
        return wanted
    chosen: Implementation = "xla" if missing else "cudnn"
    why = f"cudnn needs {' and '.join(missing)}" if missing else f"cudnn has {_features(config)}"
    logger.info("attention.implementation=auto: %s, %s", chosen, why)
    return chosen


def capability_of(mesh: Mesh) -> str | None:
    """Return the compute capability of a mesh's GPUs, present or not; None of other devices."""
    return getattr(mesh.devices.flat[0], "compute_capability", None)


def _missing(config: Config, platform: str, capability: str) -> list[str]:
    if platform != "gpu":
        return [f"NVIDIA GPUs (the mesh has {platform} devices)"]
    attention, packed = config.model.attention, config.data.document_mask == "segments"
    major, missing = int(capability.split(".")[0]), list(cudnn_needs(config))
    if packed and major < 9:
        missing.append(
            "data.document_mask = none on GPUs before Hopper (compute capability 9.0, these have "
            f"{capability})"
        )
    keys, values = served_widths(query_width(attention), value_width(attention), packed=packed)
    # From Hopper on, DeepSeek's unequal widths have kernels of their own.
    if keys > NARROW and major != 9 and not (major > 9 and keys != values):
        missing.append(
            f"heads of at most {NARROW} on GPUs of compute capability {capability}, they are {keys}"
        )
    return missing


def _features(config: Config) -> str:
    """Return what of this config not every fused attention has."""
    attention = config.model.attention
    features = {
        "packed documents": config.data.document_mask == "segments",
        "windows": any(attention.windows),
        "sinks": attention.sinks != "none",
        "latent heads": attention.kind == "latent",
    }
    named = [name for name, used in features.items() if used]
    return " and ".join(named or ["causal attention"])
