"""Compiling a search's best layouts: ranks, winners that fit, and the file that is written."""

from dataclasses import replace

import pytest
from support.places import CONFIGS
from support.planner.hand_finals import fake_plan, finals, small_search

from moe_jax.config import check, load_config, override
from moe_jax.config.load import parse_config
from moe_jax.planner.compile.hardware_file import known_hardware
from moe_jax.planner.search.finals import compile_finalists, winner_toml
from moe_jax.planner.search.search import NothingFits, finalists, search


@pytest.mark.slow
def test_the_fastest_compiled_layout_that_fits_wins():
    made = finals((100, 3.0), (100, 2.0), (140, 1.0))
    assert [f.step_s for f in made.ranked] == [2.0, 3.0, 1.0]
    assert made.winner.candidate is finalists(small_search(), 3)[1]


@pytest.mark.slow
def test_nobody_is_given_a_slower_layout_than_their_own():
    slowest = small_search().candidates[-1]
    plans = [fake_plan(100, 3.0), fake_plan(100, 2.0)]
    own = replace(small_search(), given=slowest)
    made = compile_finalists(own, 1, plan_all=lambda requests, calibration: plans)
    assert made.winner.candidate is slowest


def test_arithmetic_ranks_where_xla_has_no_times():
    made = finals((100, None), (100, None))
    assert made.winner.candidate is small_search().candidates[0]


def test_layouts_that_are_all_too_large_make_room_for_the_next():
    made = finals((150, 1.0), (140, 2.0), later=[((150, 1.5), (100, 3.0))])
    assert len(made.ranked) == 4
    assert made.winner.step_s == 3.0
    assert made.winner.candidate is finalists(small_search(), 4)[3]


def test_compiled_layouts_that_are_all_too_large_are_named():
    made = finals((150, 1.0), (140, 2.0))
    with pytest.raises(NothingFits, match=r"none of the 6 layouts.*needs 140.0 GiB of 129.7"):
        _ = made.winner


def test_the_winner_is_a_complete_file_that_runs():
    made = finals((100, 3.0), (100, 2.0))
    config = parse_config(winner_toml(made))
    assert config == made.winner.candidate.config
    check(config, 4)


@pytest.mark.slow
@pytest.mark.compile_target
def test_search_of_a_small_model_compiles_and_agrees_on_what_fits():
    config = override(
        load_config(CONFIGS / "quickstart.toml"),
        ["precision.compute=bfloat16", "data.document_mask=none", "train.global_batch=32"],
    )
    target = known_hardware().target("h100", 1, 4)
    made = compile_finalists(search(config, target), 2)
    assert len(made.ranked) == 2
    assert all(finalist.fits and finalist.plan.predicted for finalist in made.ranked)
    assert made.winner.step_s == min(finalist.step_s for finalist in made.ranked)
    check(parse_config(winner_toml(made)), 4)
