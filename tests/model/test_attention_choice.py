"""Who computes attention: what fits, what is said of it, and what is refused before a compile."""

import logging

import jax
import pytest
from support.model_cases import configured, parallel_of

from moe_jax.model.attention_choice import attention_implementation, capability_of

BF16 = ("precision.compute=bfloat16", "model.attention.head_dim=64")
LATENT = (
    *BF16,
    "model.attention.kind=latent",
    "model.attention.kv_heads=2",
    "model.attention.head_dim=128",
    "model.attention.latent.rope_head_dim=64",
    "model.attention.latent.value_head_dim=128",
)
UNPACKED = "data.document_mask=none"
AMPERE, HOPPER, BLACKWELL = "8.0", "9.0", "10.0"


@pytest.mark.parametrize(
    ("capability", "overrides", "wanted"),
    [
        (HOPPER, BF16, "cudnn"),  # packed documents
        (None, BF16, "cudnn"),
        (HOPPER, (*BF16, "model.attention.sinks=per_head"), "cudnn"),
        (HOPPER, (*BF16, "model.attention.head_dim=256"), "cudnn"),
        (HOPPER, LATENT, "cudnn"),
        (HOPPER, (*BF16, "model.attention.head_dim=258"), "xla"),
        (HOPPER, (*BF16, "precision.compute=float32"), "xla"),
        (HOPPER, (*BF16, "data.sequence_length=7"), "xla"),
        (HOPPER, (*BF16, "model.attention.implementation=xla"), "xla"),
        (AMPERE, BF16, "xla"),
        (AMPERE, (*BF16, UNPACKED), "cudnn"),
        (AMPERE, (*BF16, UNPACKED, "model.attention.head_dim=136"), "xla"),
        (AMPERE, (*LATENT, UNPACKED), "xla"),
        (BLACKWELL, BF16, "cudnn"),
        (BLACKWELL, (*LATENT, UNPACKED), "cudnn"),
        (BLACKWELL, LATENT, "xla"),
        (BLACKWELL, (*BF16, "model.attention.head_dim=256"), "xla"),
    ],
)
def test_auto_takes_cudnn_where_it_works(capability, overrides, wanted):
    assert attention_implementation(configured(*overrides), "gpu", capability) == wanted


def test_auto_says_what_it_took_and_why(caplog):
    with caplog.at_level(logging.INFO, "moe_jax.model.attention_choice"):
        attention_implementation(configured(*LATENT, "model.attention.windows=[2]"), "gpu")
        attention_implementation(configured(*BF16), "gpu", AMPERE)
        attention_implementation(configured(*BF16), "cpu")
    assert caplog.messages == [
        "attention.implementation=auto: cudnn, cudnn has packed documents and windows and latent "
        "heads",
        "attention.implementation=auto: xla, cudnn needs data.document_mask = none on GPUs before "
        "Hopper (compute capability 9.0, these have 8.0)",
        "attention.implementation=auto: xla, cudnn needs NVIDIA GPUs (the mesh has cpu devices)",
    ]


@pytest.mark.parametrize(
    ("platform", "capability", "overrides", "message"),
    [
        ("cpu", None, BF16, r"needs NVIDIA GPUs \(the mesh has cpu devices\).* auto or xla"),
        ("gpu", AMPERE, BF16, r"document_mask = none on GPUs before Hopper.* auto or xla"),
        ("gpu", BLACKWELL, LATENT, r"at most 128 on GPUs of compute capability 10.0.* 192"),
    ],
)
def test_cudnn_is_refused_where_it_cannot_run(platform, capability, overrides, message):
    config = configured(*overrides, "model.attention.implementation=cudnn")
    with pytest.raises(ValueError, match=message):
        attention_implementation(config, platform, capability)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="what CPUs say of themselves")
def test_cpus_have_no_capability():
    assert capability_of(parallel_of(configured()).mesh) is None
