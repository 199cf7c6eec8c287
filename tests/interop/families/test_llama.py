"""Llama: dense layers, and biases only where config.json has them."""

from support.hf.config_jsons import of, published


def test_llama_as_published_is_read():
    model = published("Llama-3.2-1B")
    assert (model.layers, model.mlp.activation, model.tie_embeddings) == (
        ("dense",),
        "swiglu",
        "tied",
    )
    assert (model.attention.rope.scaling, model.attention.rope.factor) == ("llama3", 32.0)


def test_biases_are_all_or_none():
    assert of("llama").mlp.bias == of("llama").attention.bias == "none"
    assert of("llama", mlp_bias=True).mlp.bias == "all"
    assert of("llama", attention_bias=True).attention.bias == "all"
