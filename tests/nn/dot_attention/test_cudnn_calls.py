"""The custom calls that we write are those that JAX's own attention makes."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from moe_jax.nn.dot_attention import cudnn_calls, dot_attention
from moe_jax.nn.dot_attention.cudnn_calls import BACKWARD, FORWARD

B, S, H, G, M = 2, 256, 4, 2, 64


def lowered(attention, g: int = G, segments: bool = False) -> dict[str, tuple[dict, str]]:
    """Name of each custom call -> its description, and the types of its operands and results."""

    def both(q, k, v, ids):
        out, pull = jax.vjp(lambda *qkv: attention(*qkv, ids if segments else None), q, k, v)
        return out, pull(out)

    q, k = (jax.ShapeDtypeStruct((B, S, heads, M), jnp.bfloat16) for heads in (H, g))
    ids = jax.ShapeDtypeStruct((B, S), jnp.int32)
    text = jax.jit(both).trace(q, k, k, ids).lower(lowering_platforms=("cuda",)).as_text()
    lines = [line.replace(r"\22", '"') for line in text.splitlines() if "@__cudnn" in line]
    return {
        re.search(r"@(\S+?)\(", line)[1]: (
            json.JSONDecoder().raw_decode(line.split('backend_config = "')[1])[0],
            line.split("operand_layouts")[1],
        )
        for line in lines
    }


def ours(q, k, v, segments):
    return dot_attention(q, k, v, segments, window=32, implementation="cudnn", query_block=64)


def theirs(q, k, v, segments):
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=True, local_window_size=(31, 0), implementation="cudnn"
    )


def without_defaults(description):
    """Of a protobuf message: what is not said is empty, 0 or INVALID."""
    if not isinstance(description, dict):
        return description
    said = {key: without_defaults(value) for key, value in description.items()}
    empty = ([], "0", "PRIMITIVE_TYPE_INVALID")
    return {key: value for key, value in said.items() if value not in empty}


@pytest.mark.compile_target
def test_calls_without_documents_are_jaxs_own():
    pytest.importorskip("jax_plugins.xla_cuda12", reason="JAX asks its plugin for cuDNN's version")
    mine, jaxs = lowered(ours), lowered(theirs)
    assert mine.keys() == jaxs.keys() == {FORWARD, BACKWARD}
    for name in mine:
        assert mine[name][1] == jaxs[name][1]
        assert without_defaults(mine[name][0]) == without_defaults(jaxs[name][0])


def test_documents_have_lengths_and_offsets():
    calls = lowered(ours, segments=True)
    for name, (description, types) in calls.items():
        attention = description["cudnn_fmha_backend_config"]
        assert attention["mask_type"] == "PADDING_CAUSAL"
        assert (attention["max_seg_per_batch"], attention["sliding_window_length"]) == (4, 32)
        assert types.count("tensor<2x4xi32>") == 2, name
        assert types.count("tensor<2x5xi32>") == 2, name
    assert "tensor<8x4x256xf32>" in calls[FORWARD][1]


def test_a_window_as_long_as_the_row_is_none():
    def wide(q, k, v, segments):
        return dot_attention(q, k, v, segments, window=S, implementation="cudnn", query_block=64)

    attention = lowered(wide)[FORWARD][0]["cudnn_fmha_backend_config"]
    assert attention["sliding_window_length"] == 0


def test_more_elements_than_offsets_can_number_are_refused(monkeypatch):
    monkeypatch.setattr(cudnn_calls, "MOST_ELEMENTS", B * S * H * M)
    with pytest.raises(ValueError, match=r"512 tokens x 256 are 131072 or more.*global_batch"):
        lowered(ours, segments=True)
