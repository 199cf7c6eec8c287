"""A search of the paper's model on 4 H200, its best layouts compiled by hand. No tests here."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

from support.places import CONFIGS

from moe_jax.config import load_config, override
from moe_jax.planner.compile.hardware_file import known_hardware
from moe_jax.planner.search.finals import compile_finalists
from moe_jax.planner.search.search import search

GIB = 2**30


@cache
def small_search():
    changes = ("mesh.expert=4", "model.moe.num_experts=4", "train.global_batch=32")
    config = override(load_config(CONFIGS / "paper_ep16.toml"), changes)
    made = search(config, known_hardware().target("h200", 1, 4))
    assert made.given is not None
    assert made.given.config is config
    return replace(made, given=None)


def fake_plan(peak_gib, step_s):
    memory = SimpleNamespace(peak_bytes=peak_gib * GIB, capacity_bytes=141 * GIB)
    predicted = None if step_s is None else SimpleNamespace(step_s=step_s, tokens_per_s=1e6)
    return SimpleNamespace(memory=memory, predicted=predicted)


def finals(*figures, later=()):
    batches = [figures, *later]

    def plan_all(requests, calibration):
        batch = batches.pop(0) if len(batches) > 1 else batches[0]
        assert len(requests) == len(batch)
        return [fake_plan(*figure) for figure in batch]

    return compile_finalists(small_search(), len(figures), plan_all=plan_all)
