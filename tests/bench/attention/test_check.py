"""The check passes what is right, fails what is not, and goes on after what does not compile."""

import dataclasses

import pytest

from moe_jax.bench.attention import check as checking
from moe_jax.bench.attention.cases import SMALL
from moe_jax.bench.attention.check import BOUND, AttentionVerdict, check

PLAIN = dataclasses.replace(SMALL[0], length=32)


def test_what_is_right_passes():
    lines = []
    (verdict,) = check(["xla"], [PLAIN], lines.append, "float32")
    assert verdict.passed
    assert verdict.errors.keys() == {"o", "dq", "dk", "dv"}
    assert all(error < 1e-5 for error in verdict.errors.values())
    assert lines[0].startswith("ok   xla   small")


@pytest.mark.parametrize("where", ["compiled_run", "compiled_reference"])
def test_a_failure_is_a_line_and_hides_no_other(monkeypatch, where):
    right = getattr(checking, where)

    def refuses(*arguments):
        if SMALL[0] in arguments:
            raise NotImplementedError("no kernel\nhere")
        return right(*arguments)

    monkeypatch.setattr(checking, where, refuses)
    lines = []
    bad, good = check(["xla"], [SMALL[0], PLAIN], lines.append, "float32")
    assert good.passed
    assert not bad.passed
    assert lines[0].startswith("FAIL xla   small")
    assert lines[0].endswith("NotImplementedError: no kernel")


@pytest.mark.parametrize("error", [BOUND, float("inf")])
def test_one_bad_array_fails_a_case(error):
    verdict = AttentionVerdict(PLAIN, "cudnn", {"o": 1e-3, "dq": error})
    assert not verdict.passed
    assert verdict.line().startswith("FAIL cudnn small")


def test_wrong_values_are_seen(monkeypatch):
    right = checking.attention_by
    monkeypatch.setattr(
        checking, "attention_by", lambda *of: lambda operands: right(*of)(operands) * 1.1
    )
    (verdict,) = check(["xla"], [PLAIN], lambda line: None, "float32")
    assert min(verdict.errors.values()) == pytest.approx(0.1, rel=0.1)
    assert not verdict.passed
