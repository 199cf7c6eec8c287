"""Starts, dones and the matmuls between them, in hand-written HLO."""

import pytest
from support.planner.compiles import require_async
from support.planner.hand_hlo import HLO

from moe_jax.planner.xla.async_pairs import async_pairs, hideable, require_hideable
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.overlap import OverlapLost


def test_matmuls_in_fusions_and_cublas_calls_count_those_in_branches_do_not():
    found = {p.start: (p.done, p.matmuls) for p in async_pairs(parse_hlo(HLO))}
    assert found == {
        "round-start": ("round-done", 0),
        "first-start": ("first-done", 2),
        "bare-start": ("bare-done", 0),
    }


def test_pair_without_a_matmul_is_named():
    with pytest.raises(OverlapLost, match=r"body: 1 of 2 all-to-all .*: bare-start;"):
        require_async(HLO)


def test_pairs_in_branches_are_not_asked_for():
    assert [p.start for p in require_async(HLO, bare=1)] == ["first-start", "bare-start"]


def test_start_that_runs_to_its_end_is_blocking():
    with pytest.raises(OverlapLost, match=r"1 of 1 all-gather .*: gather-start \(blocks\)"):
        require_async(HLO, "all-gather")


def test_collective_without_a_start_is_blocking():
    with pytest.raises(OverlapLost, match=r"permuted \(blocks\)"):
        require_async(HLO, "collective-permute")


def test_program_without_the_collective_is_not_fine():
    with pytest.raises(OverlapLost, match="no reduce-scatter"):
        require_async(HLO, "reduce-scatter")


def test_bytes_that_can_hide_are_those_with_a_matmul_beside_them():
    (figures,) = hideable(async_pairs(parse_hlo(HLO)))
    assert (figures.computation, figures.count, figures.bare) == ("body", 2, ("bare-start",))
    assert figures.share == pytest.approx(0.5)
    assert require_hideable(figures, 0.5) is figures
    with pytest.raises(OverlapLost, match=r"at least 51.0% must be hidden.*: bare-start\."):
        require_hideable(figures, 0.51)


def test_nothing_can_hide_where_there_is_nothing():
    assert hideable(async_pairs(parse_hlo(HLO), "reduce-scatter")) == ()
