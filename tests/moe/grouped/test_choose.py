"""Which implementation is taken, and what is refused with which remedy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from moe_jax.errors import UserError
from moe_jax.moe.grouped import choose as module
from moe_jax.moe.grouped.choose import choose


@pytest.fixture
def gpu(monkeypatch):
    def install(capability):
        monkeypatch.setattr(module, "_compute_capability", lambda _: capability)

    return install


@pytest.mark.parametrize(
    ("capability", "dtype", "dims", "chosen"),
    [
        ("9.0", jnp.bfloat16, (2048, 1024), "mosaic"),
        ("9.0", jnp.float32, (2048, 1024), "blocks"),
        ("9.0", jnp.bfloat16, (2048, 100), "blocks"),
        ("8.0", jnp.bfloat16, (2048, 1024), "blocks"),
        (None, jnp.bfloat16, (2048, 1024), "blocks"),
    ],
)
def test_auto(gpu, capability, dtype, dims, chosen):
    gpu(capability)
    assert choose("auto", dtype, dims) == chosen


@pytest.mark.parametrize(
    ("capability", "dtype", "dims", "message"),
    [
        ("8.0", jnp.bfloat16, (64,), r"needs a Hopper GPU .* this one has 8.0: use 'auto'"),
        ("9.0", jnp.float32, (64,), "got float32: convert the rows"),
        (None, jnp.bfloat16, (64, 100), r"\(64, 100\) to be multiples of 64, got 100: pad them"),
    ],
)
def test_mosaic_says_what_it_cannot_do(gpu, capability, dtype, dims, message):
    gpu(capability)
    with pytest.raises(UserError, match=message):
        choose("mosaic", dtype, dims)


def test_mosaic_is_accepted_for_gpus_that_are_elsewhere(gpu):
    gpu(None)
    assert choose("mosaic", jnp.bfloat16, (64,)) == "mosaic"


def test_a_described_device_decides_for_itself():
    hopper, ampere = (SimpleNamespace(platform="gpu", compute_capability=c) for c in ("9.0", "8.0"))
    assert choose("auto", jnp.bfloat16, (64,), hopper) == "mosaic"
    assert choose("auto", jnp.bfloat16, (64,), ampere) == "blocks"
    assert choose("auto", jnp.bfloat16, (64,), SimpleNamespace(platform="cpu")) == "blocks"
    with pytest.raises(UserError, match=r"this one has 8\.0"):
        choose("mosaic", jnp.bfloat16, (64,), ampere)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="'triton' is none of auto, mosaic, blocks, dense"):
        choose("triton", jnp.float32, (8,))


def test_no_gpu_here():
    assert jax.devices()[0].platform != "cpu" or choose("auto", jnp.bfloat16, (64,)) == "blocks"
