"""What cuDNN is asked for: widths that it has, and a pass for values alone without statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import emulated_cudnn

from moe_jax.bench.attention.cases import AttentionCase, draw_operands
from moe_jax.nn.dot_attention.cudnn import cudnn_attention, served_widths


@pytest.mark.parametrize(
    ("keys", "values", "packed", "served"),
    [
        (128, 128, False, (128, 128)),
        (36, 36, True, (40, 40)),
        (192, 128, False, (192, 128)),
        # Documents' keys and values share their offsets.
        (192, 128, True, (192, 192)),
        (96, 64, False, (96, 96)),
        (64, 100, False, (104, 104)),
    ],
)
def test_widths_are_padded_to_what_cudnn_has(keys, values, packed, served):
    assert served_widths(keys, values, packed=packed) == served


def test_values_alone_need_no_backward_call(monkeypatch):
    calls = emulated_cudnn.install(monkeypatch)
    o = draw_operands(AttentionCase("", 1, 64, 2, 2, 8), "float32")
    jax.jit(lambda: cudnn_attention(o.q_bshm, o.k_bsgm, o.v_bsgn, None, None, 0.3, 0))()
    assert calls == ["__cudnn$fmhaSoftmax"]


def test_a_sink_that_takes_everything_leaves_nothing(monkeypatch):
    emulated_cudnn.install(monkeypatch)
    o = draw_operands(AttentionCase("", 1, 64, 2, 2, 8), "float32")
    sinks = jnp.asarray([100.0, -100.0])
    out = cudnn_attention(o.q_bshm, o.k_bsgm, o.v_bsgn, None, sinks, 0.3, 0)
    without = cudnn_attention(o.q_bshm, o.k_bsgm, o.v_bsgn, None, None, 0.3, 0)
    np.testing.assert_allclose(out[:, :, 0], 0, atol=1e-30)
    np.testing.assert_allclose(out[:, :, 1], without[:, :, 1], rtol=1e-6)
