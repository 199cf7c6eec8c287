"""One contract for every implementation: values and all gradients against a naive softmax."""

import dataclasses

import jax
import pytest
from support import emulated_cudnn

from moe_jax.bench.attention.cases import CHECKED, AttentionCase, draw_operands
from moe_jax.bench.attention.check import errors
from moe_jax.bench.attention.oracle import attention_by, oracle, with_gradients
from moe_jax.nn.dot_attention import cudnn_calls

HAS_GPU = jax.default_backend() == "gpu"
on_gpu = pytest.mark.skipif(not HAS_GPU, reason="cuDNN runs on NVIDIA GPUs only")


def small(case: AttentionCase) -> AttentionCase:
    """The same features, where a CPU has them in a second: classes of 512 and 128 tokens."""
    return dataclasses.replace(
        case,
        batch=1,
        length=case.length // 2,
        width=case.width // 4,
        value_width=case.value_width // 4,
        window=case.window // 2,
    )


#: Features that meet no new code here, and those that other cases have too.
SLOW = ("width 256", "latent, documents", "documents, odd row", "documents as rows", "window")
by_name = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            small(case),
            id=case.name.replace(" ", "_"),
            marks=[pytest.mark.slow] if case.name.startswith(SLOW) else [],
        )
        for case in CHECKED
    ],
)


def worst(implementation, case: AttentionCase, dtype: str) -> dict[str, float]:
    operands = draw_operands(case, dtype)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(with_gradients(attention_by(implementation, case)))
        reference = jax.jit(with_gradients(oracle(case)))
        return errors(run, reference, operands)


@by_name
def test_xla_equals_the_oracle(case):
    assert max(worst("xla", case, "float32").values()) < 1e-5


@by_name
def test_what_cudnn_is_asked_for_equals_the_oracle(case, monkeypatch):
    calls = emulated_cudnn.install(monkeypatch)
    assert max(worst("cudnn", case, "float32").values()) < 1e-5
    assert calls


@on_gpu
@by_name
def test_cudnn_equals_the_oracle(case):
    assert max(worst("cudnn", case, "bfloat16").values()) < 2e-2


def test_a_single_token_is_not_for_cudnn():
    case = AttentionCase("a prompt of one token", 1, 1, 2, 2, 8)
    assert max(worst("cudnn", case, "float32").values()) < 1e-5


def test_an_implementation_that_is_wrong_is_seen(monkeypatch):
    emulated_cudnn.install(monkeypatch)
    right = cudnn_calls._config

    def without_window(name, q, scale, window, slots):
        return right(name, q, scale, 0, slots)

    monkeypatch.setattr(cudnn_calls, "_config", without_window)
    found = worst("cudnn", AttentionCase("window", 1, 64, 2, 2, 8, window=5), "float32")
    assert min(found.values()) > 0.1
