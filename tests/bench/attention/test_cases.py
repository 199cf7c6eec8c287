"""Rows are packed as they say, and operands have a case's shapes."""

import dataclasses

import numpy as np
import pytest

from moe_jax.bench.attention.cases import (
    CHECKED,
    TIMED,
    AttentionCase,
    draw_operands,
    packed,
)
from moe_jax.nn.dot_attention.documents import length_classes


def lengths(packing: str, length: int = 4096) -> list[np.ndarray]:
    rows = packed(AttentionCase("", length=length, packing=packing))
    assert all((np.diff(row) >= 0).all() and row[0] == 1 for row in rows)
    return [np.bincount(row)[1:] for row in rows]


def test_a_document_a_row():
    assert [row.tolist() for row in lengths("whole")] == [[4096], [4096]]


def test_mixed_lengths_are_of_every_class():
    found = np.concatenate(lengths("mixed"))
    longest = [kind.longest for kind in length_classes(2, 4096)]
    for upper, lower in zip(longest, [*longest[1:], 0], strict=True):
        assert ((found > lower) & (found <= upper)).any()


def test_tiny_documents_are_more_than_the_slots():
    assert sum(map(len, lengths("tiny", 1024))) > length_classes(2, 1024)[-1].slots


def test_text_has_documents_of_512_on_average():
    assert 350 < np.concatenate(lengths("text", 1 << 16)).mean() < 700


@pytest.mark.parametrize("case", [CHECKED[12], TIMED[5]], ids=lambda case: case.name)
def test_operands_are_those_of_the_case(case):
    case = dataclasses.replace(case, length=64)
    o = draw_operands(case)
    rows = (case.batch, case.length)
    assert o.q_bshm.shape == (*rows, case.heads, case.width)
    assert o.k_bsgm.shape == (*rows, case.kv_heads, case.width)
    assert o.v_bsgn.shape == (*rows, case.kv_heads, case.values)
    assert o.do_bshn.shape == (*rows, case.heads, case.values)
    assert (o.segments_bs.shape, o.sinks_h.shape) == (rows, (case.heads,))


def test_names_are_of_one_case():
    for cases in (CHECKED, TIMED):
        assert len({case.name for case in cases}) == len(cases)
