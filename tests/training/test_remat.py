"""Which set is chosen, with made-up programs; and the order in which sets stand."""

from itertools import pairwise

import pytest
from support.places import CONFIGS

from moe_jax.config import load_config, override
from moe_jax.config.remat import KEEPABLE, kept_names, remat_of
from moe_jax.errors import UserError
from moe_jax.hardware.topology import named_topology
from moe_jax.training.remat import choose, describe, keeping, sets

PAPER = load_config(CONFIGS / "paper_ep16.toml")
H100 = named_topology("h100", 2, 8)
MIB = 2**20
#: Of a program that keeps nothing, and of what it may keep; everything is 100 more.
LEAST, SIZES = 10, dict(zip(KEEPABLE, (1, 2, 4, 40, 8, 3), strict=True))
ORDER = (*(remat_of(list(KEEPABLE)[:n]) for n in range(len(KEEPABLE) + 1)), "none")


def size(remat: str) -> int:
    return LEAST + sum(SIZES[name] for name in kept_names(remat)) + 100 * (remat == "none")


def chosen(limit: int, order=ORDER):
    """Of programs that take MiB."""
    return choose(order, limit * MIB, lambda remat: (f"program of {remat}", size(remat) * MIB))


@pytest.mark.parametrize("limit", [10, 11, 13, 16, 17, 60, 66, 68, 160, 168, 1000])
def test_the_last_of_the_order_that_fits_with_what_follows_if_that_fits_too(limit):
    found = chosen(limit)
    assert size(found.remat) <= limit
    assert found.program == f"program of {found.remat}"
    fitting = [remat for remat in ORDER if size(remat) <= limit]
    kept = set(kept_names(found.remat))
    assert kept >= set(kept_names(fitting[-1])), "no less than the order alone gives"
    # Halving eight sets, and one more program.
    assert len(found.tried) <= 5
    assert all(tried.peak_bytes == size(tried.remat) * MIB for tried in found.tried)
    assert len({tried.remat for tried in found.tried}) == len(found.tried)


def test_a_large_one_does_not_keep_small_ones_behind_it_out():
    # 17 holds the first three; the experts are too large, the rest is not.
    assert chosen(28).remat == "attention+residual+dispatch+qkv+mlp"
    assert chosen(27).remat == "attention+residual+dispatch"


def test_more_memory_never_keeps_less():
    sizes = [size(chosen(limit).remat) for limit in range(10, 200)]
    assert sizes == sorted(sizes)


def test_nothing_fits():
    with pytest.raises(UserError) as refused:
        chosen(9)
    for part in ("10.0 MiB", "9.0 MiB", "full, compiled", "train.accumulation", "train.remat=full"):
        assert part in str(refused.value)


def test_sets_grow_and_end_with_everything():
    order = sets(PAPER, H100)
    assert (order[0], order[-1]) == ("full", "none")
    for less, more in pairwise(order[:-1]):
        assert set(kept_names(less)) < set(kept_names(more))
    # 10,000 tokens: attention is worth more per byte than any product with d_model columns, of
    # which the smaller come first. What crosses hosts with nothing beside it comes before these.
    assert order[1:4] == ("attention", "attention+residual", "attention+residual+qkv")
    alone = sets(override(PAPER, ["exchange.streams=1"]), H100)
    assert alone[1:3] == ("attention", "attention+dispatch")
    assert alone[-2] == "attention+residual+dispatch+experts+qkv"


def test_what_a_model_or_a_mesh_lacks_is_no_candidate():
    one = override(PAPER, ["mesh.expert=1", 'model.layers=["dense"]'])
    names = {
        name
        for remat in sets(one, named_topology("h100", 1, 1))
        for name in kept_names(remat)
        if remat != "none"
    }
    assert names == {"attention", "residual", "qkv", "mlp"}


def test_virtual_stages_cannot_keep_everything():
    changes = ("mesh.pipe=2", "mesh.expert=8", "pipeline.microbatches=2")
    staged = override(PAPER, [*changes, "pipeline.virtual_stages=2"])
    assert sets(staged, H100)[-1] != "none"
    assert sets(override(PAPER, changes), H100)[-1] == "none"


def test_emulated_devices_are_ordered_like_gpus():
    config = override(PAPER, ["mesh.expert=8"])
    on_cpu, on_gpu = (sets(config, named_topology(chip, 1, 8)) for chip in ("cpu", "h100"))
    assert on_cpu == on_gpu


def test_what_is_said_of_the_choice():
    first, *rest = describe(chosen(59), PAPER)
    assert first.startswith("train.remat = auto: attention+residual+dispatch+experts, of the sets")
    assert len(rest) == len(chosen(59).tried)
    assert any(line.startswith("  attention+residual+dispatch: ") for line in rest)
    assert all("compiled; spares " in line for line in rest)
    assert "and sending rows" in rest[-1]


def test_keeping_changes_nothing_else():
    kept = keeping(PAPER, "attention")
    assert kept.train.remat == "attention"
    assert keeping(kept, PAPER.train.remat) == PAPER
