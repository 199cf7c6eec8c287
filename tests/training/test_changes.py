"""Which keys a resumed run may change, and what it is told."""

import pytest

from moe_jax.config import Config, override
from moe_jax.config.load import known_keys
from moe_jax.training.changes import HOUSEKEEPING, LAYOUT, SPLITS_TOKENS, changes, same_layout


def found(*assignments, saved=()):
    before = override(Config(), saved)
    return changes(before, override(before, assignments))


def test_same_config_changes_nothing():
    assert found() == changes(Config(), Config())
    assert found().layout == found().training == ()


def test_layout_changes_are_told_with_both_values():
    got = found("mesh.pipe=2", "pipeline.microbatches=4", "sharding.dense=fsdp_expert")
    assert got.layout == (
        "mesh.pipe was 1, is 2",
        "sharding.dense was fsdp, is fsdp_expert",
        "pipeline.microbatches was 1, is 4",
    )
    assert got.training == ()


def test_what_trains_differently_is_told_apart():
    got = found("mesh.expert=2", "model.moe.top_k=1", "optimizer.learning_rate=0.5")
    assert got.layout == ("mesh.expert was 1, is 2",)
    assert got.training == (
        "model.moe.top_k was 2, is 1",
        "optimizer.learning_rate was 0.003, is 0.5",
    )
    windows = found("model.attention.windows=[8, 0]")
    assert windows.training == ("model.attention.windows was [0], is [8, 0]",)


def test_housekeeping_is_nobodys_business():
    got = found("name=other", "checkpoint.every=7", "metrics.log_every=3", "data.prefetch=0")
    assert (got.layout, got.training) == ((), ())


@pytest.mark.parametrize(
    ("assignment", "saved", "is_layout"),
    [
        ("exchange.capacity_factor=2.0", (), True),
        ("exchange.capacity_factor=2.0", ("exchange.overflow=drop",), False),
        ("mesh.expert=4", ("exchange.overflow=drop",), False),
        ("sharding.optimizer=parameter", ("exchange.overflow=drop",), True),
        ("exchange.overflow=drop", (), False),
        ("train.accumulation=2", (), False),
        ("train.accumulation=2", ("model.moe.router.balance_loss=none",), True),
    ],
)
def test_layout_is_what_leaves_the_loss_alone(assignment, saved, is_layout):
    got = found(assignment, saved=saved)
    assert bool(got.layout) == is_layout
    assert bool(got.training) != is_layout


def test_tables_name_keys_that_exist():
    assert {*LAYOUT, *HOUSEKEEPING, *SPLITS_TOKENS} <= set(known_keys())


def test_the_same_layout_computes_everything_in_the_same_places():
    dropping = override(Config(), ["exchange.overflow=drop"])
    for config in (Config(), dropping):
        for change in ("mesh.data=2", "exchange.streams=2", "train.accumulation=2"):
            assert not same_layout(config, override(config, [change])), change
        for change in ("train.remat=full", "train.steps=7", "optimizer.learning_rate=0.1"):
            assert same_layout(config, override(config, [change])), change
