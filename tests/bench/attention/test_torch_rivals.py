"""Torch's attention runs on a CPU too, and a case that it cannot have is a line."""

import dataclasses

import pytest

from moe_jax.bench.attention.cases import SMALL

pytest.importorskip("torch")
rivals = pytest.importorskip("moe_jax.bench.attention.torch_rivals")

SHORT = dataclasses.replace(SMALL[0], length=32)


def test_whole_rows_are_timed():
    (time,) = rivals.time_torch_attention([SHORT], "cpu", repeats=2, batch_s=1e-4)
    assert time.by == "torch sdpa"
    assert time.both_s > time.forward_s > 0


def test_what_torch_refuses_is_told(monkeypatch):
    def refuses(case, device):
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(rivals, "_attention", refuses)
    (line,) = rivals.time_torch_attention([SHORT], "cpu")
    assert line.startswith("small")
    assert line.endswith("NotImplementedError: no kernel")


def test_documents_and_windows_are_flex_attentions(monkeypatch):
    masks = []

    def flexible(q, k, v, *, block_mask, enable_gqa):
        masks.append(block_mask)
        return q

    monkeypatch.setattr(rivals, "flex_attention", flexible)
    monkeypatch.setattr(rivals.torch, "compile", lambda function: function)
    case = dataclasses.replace(SMALL[1], length=256, window=8)
    name, attend = rivals._attention(case, "cpu")
    q = rivals.torch.zeros(1, 2, 256, 32)
    assert (name, attend(q, q, q) is q) == ("flex", True)
    assert masks[0].shape == (1, 1, 256, 256)
