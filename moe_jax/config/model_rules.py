"""Rules that span fields of the model; `rules.py` runs them with all others.

Each rule yields its problems as text: the values, the rule, the remedy.
"""

import math
from collections.abc import Callable, Iterator

from moe_jax.config.schema import Config

Problems = Iterator[str]

#: Widest heads of cuDNN's attention, with gradients.
CUDNN_WIDEST = 256


def _experts_divide(config: Config) -> Problems:
    experts, axis = config.model.moe.num_experts, config.mesh.expert
    if "moe" not in config.model.layers or experts % axis == 0:
        return
    yield (
        f"model.moe.num_experts ({experts}) must be a multiple of mesh.expert ({axis}): "
        f"set mesh.expert to {either(divisors_around(experts, axis))}, or "
        f"model.moe.num_experts to {either(multiples_around(experts, axis))}"
    )


def _top_k(config: Config) -> Problems:
    moe = config.model.moe
    if moe.top_k > moe.num_experts:
        yield (
            f"model.moe.top_k ({moe.top_k}) must be at most model.moe.num_experts "
            f"({moe.num_experts}): set model.moe.top_k to {moe.num_experts} or less"
        )


def _router_groups(config: Config) -> Problems:
    moe, router = config.model.moe, config.model.moe.router
    if moe.num_experts % router.groups:
        groups = either(divisors_around(moe.num_experts, router.groups))
        yield (
            f"model.moe.router.groups ({router.groups}) must divide model.moe.num_experts "
            f"({moe.num_experts}): set model.moe.router.groups to {groups}"
        )
        return
    size = moe.num_experts // router.groups
    if router.top_groups > router.groups:
        yield (
            f"model.moe.router.top_groups ({router.top_groups}) must be at most "
            f"model.moe.router.groups ({router.groups}): set it to {router.groups} or less"
        )
    elif moe.num_experts >= moe.top_k > router.top_groups * size:
        yield (
            f"model.moe.top_k ({moe.top_k}) must be at most top_groups ({router.top_groups}) x "
            f"experts per group ({size}): set model.moe.router.top_groups to "
            f"{math.ceil(moe.top_k / size)} or more, or model.moe.top_k to "
            f"{router.top_groups * size} or less"
        )
    if router.groups > 1 and router.group_score == "top2_sum" and size < 2:
        yield (
            f"model.moe.router.group_score = top2_sum needs 2 experts per group, there is {size} "
            f"(num_experts {moe.num_experts}, groups {router.groups}): set "
            "model.moe.router.group_score=max, or model.moe.router.groups to "
            f"{moe.num_experts // 2 if moe.num_experts % 2 == 0 else 1}"
        )


def _heads(config: Config) -> Problems:
    attention = config.model.attention
    if attention.heads % attention.kv_heads:
        kv_heads = either(divisors_around(attention.heads, attention.kv_heads))
        yield (
            f"model.attention.heads ({attention.heads}) must be a multiple of kv_heads "
            f"({attention.kv_heads}): set model.attention.kv_heads to {kv_heads}"
        )
    name, width = _rotated(config)
    if width % 2:
        yield f"{name} ({width}) must be even, rotary positions turn pairs: set it to {width + 1}"


def _rotated(config: Config) -> tuple[str, int]:
    """Return the key and the value of the width that rotary positions turn."""
    attention = config.model.attention
    if attention.kind == "latent":
        return "model.attention.latent.rope_head_dim", attention.latent.rope_head_dim
    return "model.attention.head_dim", attention.head_dim


def _latent(config: Config) -> Problems:
    attention = config.model.attention
    if attention.kind != "latent":
        return
    unknown = {
        "kv_heads": (attention.kv_heads, attention.heads),
        "qk_norm": (attention.qk_norm, "none"),
        "bias": (attention.bias, "none"),
        "clip_qkv": (attention.clip_qkv, 0.0),
        "sinks": (attention.sinks, "none"),
    }
    for name, (value, only) in unknown.items():
        if value != only:
            yield (
                f"model.attention.{name} = {value} does not go with model.attention.kind = latent: "
                f"set model.attention.{name}={only}"
            )


def _sparsemixer(config: Config) -> Problems:
    moe, router = config.model.moe, config.model.moe.router
    if router.score != "sparsemixer":
        return
    fixed = {
        "top_k": (moe.top_k, 2),
        "router.normalize_over": (router.normalize_over, "all"),
        "router.groups": (router.groups, 1),
        "router.bias_update_rate": (router.bias_update_rate, 0.0),
        "router.selection_bias": (router.selection_bias, "updated"),
    }
    for name, (value, only) in fixed.items():
        if value != only:
            yield (
                f"model.moe.{name} = {value} does not go with model.moe.router.score = "
                f"sparsemixer, which picks two experts one after the other: set "
                f"model.moe.{name}={only}"
            )


def _shared_experts(config: Config) -> Problems:
    moe = config.model.moe
    if moe.shared_experts and moe.activation == "swiglu_clamped":
        yield (
            "model.moe.activation = swiglu_clamped is for routed experts only, "
            f"model.moe.shared_experts is {moe.shared_experts}: set it to 0, or "
            "model.moe.activation=swiglu"
        )
    if not moe.shared_experts and (moe.shared_d_ff or moe.shared_gate != "none"):
        yield (
            f"model.moe.shared_d_ff = {moe.shared_d_ff} and model.moe.shared_gate = "
            f"{moe.shared_gate} belong to shared experts, of which there are none: set "
            "model.moe.shared_experts=1, or model.moe.shared_d_ff=0 and model.moe.shared_gate=none"
        )


def _longrope(config: Config) -> Problems:
    rope, length = config.model.attention.rope, config.data.sequence_length
    if rope.scaling != "longrope":
        return
    name, width = _rotated(config)
    for key, factors in (("short", rope.short_factors), ("long", rope.long_factors)):
        if len(factors) != width // 2:
            yield (
                f"model.attention.rope.{key}_factors has {len(factors)} entries, scaling = "
                f"longrope needs one per pair of {name} ({width}): {width // 2}"
            )
    if length > rope.original_context and rope.factors == "short":
        yield (
            f"data.sequence_length ({length}) is beyond model.attention.rope.original_context "
            f"({rope.original_context}), for which its short factors are made: set "
            "model.attention.rope.factors=long"
        )


def _rope(config: Config) -> Problems:
    rope = config.model.attention.rope
    if rope.scaling == "llama3" and rope.low_freq_factor >= rope.high_freq_factor:
        yield (
            f"model.attention.rope.low_freq_factor ({rope.low_freq_factor}) must be below "
            f"high_freq_factor ({rope.high_freq_factor}) for scaling = llama3: Llama 3 has 1 and 4"
        )
    if rope.scaling == "yarn" and rope.beta_slow >= rope.beta_fast:
        yield (
            f"model.attention.rope.beta_slow ({rope.beta_slow}) must be below beta_fast "
            f"({rope.beta_fast}) for scaling = yarn: the usual values are 1 and 32"
        )


def _patterns(config: Config) -> Problems:
    layers = config.model.num_layers
    patterns = (
        ("model.layers", config.model.layers),
        ("model.attention.windows", config.model.attention.windows),
    )
    for name, pattern in patterns:
        if len(pattern) > layers:
            yield (
                f"{name} has {len(pattern)} entries for model.num_layers ({layers}): shorten it "
                f"to {layers} or fewer, or set model.num_layers to {len(pattern)} or more"
            )


def cudnn_needs(config: Config) -> Problems:
    """Yield what cuDNN's attention needs, on whatever GPU, and a config does not have.

    What only some GPUs have is `model/attention_choice.py`.
    """
    attention, length = config.model.attention, config.data.sequence_length
    rotated, values = 0, attention.head_dim
    if attention.kind == "latent":
        rotated, values = attention.latent.rope_head_dim, attention.latent.value_head_dim
    if (width := max(attention.head_dim + rotated, values)) > CUDNN_WIDEST:
        yield f"heads of at most {CUDNN_WIDEST}, they are {width} wide"
    if length % 2:
        yield f"an even data.sequence_length ({length}): set it to {length + 1}"
    if config.precision.compute == "float32":
        yield "precision.compute=bfloat16, it is float32"


def _cudnn(config: Config) -> Problems:
    if config.model.attention.implementation == "cudnn":
        for need in cudnn_needs(config):
            yield (
                f"model.attention.implementation = cudnn needs {need}, or set "
                "model.attention.implementation=xla"
            )


MODEL_RULES: tuple[Callable[[Config], Problems], ...] = (
    _experts_divide,
    _top_k,
    _router_groups,
    _heads,
    _latent,
    _sparsemixer,
    _shared_experts,
    _rope,
    _longrope,
    _patterns,
    _cudnn,
)


def multiples_around(value: int, unit: int) -> list[int]:
    """Return the positive multiples of `unit` next to `value`."""
    below = value // unit * unit
    return [n for n in (below, below + unit) if n > 0]


def divisors_around(value: int, near: int) -> list[int]:
    """Return the divisors of `value` next to `near`, which is not one."""
    divisors = [n for n in range(1, value + 1) if value % n == 0]
    below = [n for n in divisors if n < near][-1:]
    return below + [n for n in divisors if n > near][:1]


def either(numbers: list[int]) -> str:
    """Write alternatives as text: "7 or 9"."""
    return " or ".join(str(number) for number in numbers)
