"""Searching layouts: all are considered, exclusions have reasons, the order is by speed."""

from functools import cache
from math import prod
from pathlib import Path

import pytest

from moe_jax.config import check, load_config, override
from moe_jax.mesh.axes import AXES
from moe_jax.planner.hardware_file import known_hardware
from moe_jax.planner.search import (
    USABLE_MEMORY,
    NothingFits,
    describe,
    finalists,
    layouts,
    meshes,
    search,
)

CONFIGS = Path(__file__).parents[2] / "configs"
#: The paper's model on one host: half its experts and half its batch.
SMALL = ("mesh.expert=8", "model.moe.num_experts=8", "train.global_batch=64")
PAPER = override(load_config(CONFIGS / "paper_ep16.toml"), SMALL)


def target(gpu="h100", hosts=1, per_host=8):
    return known_hardware().target(gpu, hosts, per_host)


@cache
def paper_search():
    return search(PAPER, target())


@cache
def h200_search():
    return search(PAPER, target("h200"))


def test_every_mesh_of_8_devices_is_considered_once():
    found = list(meshes(8))
    assert all(prod(getattr(mesh, axis) for axis in AXES) == 8 for mesh in found)
    # Three factors of 2 over five axes.
    assert len(found) == len(set(found)) == 35


def test_every_choice_is_combined_and_the_configs_own_are_among_them():
    config = override(PAPER, ["exchange.capacity_factor=1.1", "exchange.streams=3"])
    found = list(layouts(config, 8, "train"))
    assert config in found
    assert len(found) == len(list(meshes(8))) * 6 * 5 * 3 * 5
    # Without gradients there is nothing to rematerialise or to accumulate.
    assert len(list(layouts(config, 8, "forward"))) == len(list(meshes(8))) * 6 * 5


def test_every_layout_is_refused_with_a_reason_or_too_large_or_a_candidate():
    found = paper_search()
    refused = sum(refusal.count for refusal in found.refused)
    assert refused + found.too_large + len(found.candidates) == found.considered
    counts = [refusal.count for refusal in found.refused]
    assert counts == sorted(counts, reverse=True)
    assert any("train.global_batch (64) must be a multiple" in r.example for r in found.refused)


def test_candidates_are_checked_fit_and_come_fastest_first():
    found = paper_search()
    steps = [candidate.estimate.step.total_s for candidate in found.candidates]
    assert steps == pytest.approx(sorted(steps), rel=2e-3)
    for candidate in found.candidates:
        check(candidate.config, 8)
        limit = USABLE_MEMORY * target().topology.memory_bytes
        assert candidate.estimate.memory.peak_bytes <= limit


def test_the_papers_own_layout_is_best_on_h100():
    best = paper_search().candidates[0].config
    assert (best.mesh.expert, best.exchange.streams, best.train.remat) == (8, 8, "full")


def test_more_memory_buys_time():
    # An H200 need not compute everything again.
    roomy = h200_search().candidates[0].estimate
    tight = paper_search().candidates[0].estimate
    assert roomy.step.total_s <= tight.step.total_s
    assert roomy.memory.peak_bytes > tight.target.topology.memory_bytes * 0.5


def test_finalists_are_not_all_of_one_mesh():
    found = h200_search()
    chosen = finalists(found, 4)
    assert len(chosen) == 4
    per_mesh = [sum(c.config.mesh == d.config.mesh for d in chosen) for c in chosen]
    assert max(per_mesh) <= 2
    assert chosen[0] is found.candidates[0]


def test_nothing_that_fits_says_what_is_nearest():
    config = override(PAPER, ["model.moe.d_ff=131072"])
    found = search(config, target())
    assert found.candidates == ()
    with pytest.raises(NothingFits, match=r"nearest: .*expert=8.* GiB of .*use more devices"):
        found.require_candidates()


def test_nothing_that_is_allowed_says_why():
    config = override(PAPER, ["train.global_batch=63"])
    with pytest.raises(NothingFits, match=r"global_batch \(63\) must be a multiple"):
        search(config, target()).require_candidates()


def test_a_layout_is_described_by_what_was_varied():
    line = describe(override(PAPER, ["mesh.data=2", "mesh.expert=4"]))
    assert line == ("data=2 expert=4, streams=8, capacity_factor=1.25, remat=full, accumulation=1")
