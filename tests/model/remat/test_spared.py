"""What is kept and spared, by hand for a small model."""

import pytest

from moe_jax.config import parse_config
from moe_jax.config.remat import KEEPABLE
from moe_jax.model.flops import projection_elements
from moe_jax.model.pattern import LayerSpec
from moe_jax.model.remat.spared import spared, spared_share

MOE, DENSE = LayerSpec("moe", 0), LayerSpec("dense", 0)
D, H, G, M, F = 64, 4, 2, 16, 96
SIZES = (
    f"model.d_model={D}",
    f"model.attention.heads={H}",
    f"model.attention.kv_heads={G}",
    f"model.attention.head_dim={M}",
    f"model.moe.d_ff={F}",
    "model.moe.top_k=2",
    "data.sequence_length=15",
)


def of(spec: LayerSpec, *changes: str):
    return spared(parse_config("", [*SIZES, *changes]).model, spec)


def test_an_moe_layer_by_hand():
    found = of(MOE, "model.moe.activation=swiglu")
    assert {name: one.values for name, one in found.items()} == {
        "attention": H * M,
        "residual": D,
        "qkv": (H + 2 * G) * M,
        "dispatch": D,
        "experts": 2 * F,
    }
    assert found["residual"].elements == H * M * D
    assert found["qkv"].elements == D * (H + 2 * G) * M
    assert found["experts"].elements == 2 * D * F
    assert found["dispatch"].elements == 0
    # q kT and the product with v, for 8 visible tokens.
    assert found["attention"].flops(8.0) == 2 * 2 * H * M * 8


def test_dense_layers_and_shared_experts_have_an_mlp():
    assert of(DENSE, "model.mlp.d_ff=80", "model.mlp.activation=gelu")["mlp"].values == 80
    assert not {"dispatch", "experts"} & of(DENSE).keys()
    shared = of(MOE, "model.moe.shared_experts=2", "model.moe.activation=gelu")["mlp"]
    assert (shared.values, shared.elements) == (2 * F, D * 2 * F)
    assert "mlp" not in of(MOE)


def test_latent_vectors_are_kept_as_they_are():
    changes = ("model.attention.kind=latent", "model.attention.latent.kv_rank=32")
    config = parse_config("", [*SIZES, f"model.attention.kv_heads={H}", *changes])
    latent, found = config.model.attention.latent, spared(config.model, MOE)
    p, v = latent.rope_head_dim, latent.value_head_dim
    assert found["qkv"].values == H * (M + p) + 32 + p
    expanding, output = 32 * H * (M + v), H * v * D
    assert found["qkv"].elements == projection_elements(config.model) - expanding - output


def test_share_of_a_forward_pass():
    config = parse_config("", [*SIZES, "model.moe.activation=gelu"])
    assert spared_share(config, ()) == 0
    experts = spared_share(config, ("experts",))
    everything = spared_share(config, tuple(KEEPABLE))
    # Without the experts' second matrix and the router.
    assert 0 < experts < everything < 1
    model = config.model
    products = projection_elements(model) + D * model.moe.num_experts + 2 * 2 * D * F
    total = 2 * (products + 2 * H * M * 8)
    assert experts == pytest.approx(2 * 2 * D * F / total)
