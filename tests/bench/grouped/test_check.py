"""The check passes what is right and fails what is not."""

import pytest

from moe_jax.bench.grouped import check
from moe_jax.bench.grouped.shapes import Shape

SHAPE, CASES = Shape(3, 16, 8, 40), {"odd": (7, 0, 20), "nobody": ()}


def test_right_products_pass_and_every_case_is_reported():
    lines = []
    assert check.check("blocks", SHAPE, CASES, lines.append) < 1e-2
    assert len(lines) == 2 * len(CASES) + 1
    assert "odd, float32 weights" in lines[0]


def test_wrong_products_fail(monkeypatch):
    right = check.gated_mlp

    def wrong(*operands, implementation):
        out = right(*operands, implementation=implementation)
        return out if implementation == "dense" else out * 1.1

    monkeypatch.setattr(check, "gated_mlp", wrong)
    with pytest.raises(RuntimeError, match=r"blocks: a relative error of 1\.0"):
        check.check("blocks", SHAPE, CASES, lambda line: None)
