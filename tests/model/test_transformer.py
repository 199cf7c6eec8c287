"""The transformer on 8 devices, in streams and with rematerialisation, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.model_cases import (
    LENGTH,
    OVERFLOWING,
    ROWS,
    arguments,
    assert_same_outcome,
    compiled,
    configured,
    parallel_of,
    run,
    sequences,
)

from moe_jax.model.skeleton import Skeleton
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

EIGHT = ("mesh.expert=8",)


FAST = {
    "all_to_all and rounds on 8": (*EIGHT, OVERFLOWING),
    "4 streams on 1": ("exchange.streams=4",),
}
SLOW = {
    "all_gather on 8": (*EIGHT, "exchange.transport=all_gather"),
    "local on 8": (*EIGHT, "exchange.transport=local"),
    "2 x 4": ("mesh.expert=4", "mesh.data=2"),
    "4 streams on 8": (*EIGHT, "exchange.streams=4"),
    "remat full": ("train.remat=full", "exchange.streams=2"),
    "remat auto's middle, on 8 in streams": (
        *EIGHT,
        "train.remat=attention+residual+qkv",
        "exchange.streams=2",
        OVERFLOWING,
    ),
    "remat dispatch and rounds on 8": (
        *EIGHT,
        "train.remat=dispatch",
        "exchange.streams=2",
        OVERFLOWING,
    ),
}


@pytest.mark.parametrize(
    "overrides",
    [
        *(pytest.param(value, id=name) for name, value in FAST.items()),
        *(pytest.param(value, id=name, marks=pytest.mark.slow) for name, value in SLOW.items()),
    ],
)
def test_logits_losses_and_gradients_are_those_of_one_device(overrides):
    assert_same_outcome(run(*overrides), run())


def test_counts_are_sums_over_devices():
    one, many = run().stats, run(*FAST["all_to_all and rounds on 8"]).stats
    for name in ("load_e", "tokens", "sequences"):
        np.testing.assert_array_equal(getattr(one.balance, name), getattr(many.balance, name))
    np.testing.assert_array_equal(one.balance.tokens, [ROWS * LENGTH] * 2)
    np.testing.assert_array_equal(one.balance.load_e.sum(axis=1), [ROWS * LENGTH * 2] * 2)
    np.testing.assert_array_equal(many.exchange.rows_dropped, 0)
    assert (many.exchange.overflow_rounds > 0).all()
    assert (many.exchange.rows_off_device > many.exchange.rows_off_host).all()
    np.testing.assert_array_equal(one.exchange.rows_off_device, 0)


MIXED = (
    'model.layers=["dense", "moe", "moe"]',
    "model.attention.windows=[2, 0, 0]",
    "model.num_layers=6",
    "model.tie_embeddings=tied",
)


def unrolled(config) -> tuple[np.ndarray, np.ndarray]:
    """Logits and loads [moe layers, e] by applying one block after another, without a scan."""
    skeleton, parallel = Skeleton(config), parallel_of(config)
    weights, batch = arguments(config)
    model = skeleton.merge(weights)
    ids, positions, documents = (
        jnp.asarray(batch[n][0]) for n in ("tokens", "positions", "segments")
    )
    x, loads = model.embedding(ids), []
    for stack in model.stacks:
        graphdef, state = nnx.split(stack.unit)
        for repeat in range(stack.layers.repeats):
            unit = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=repeat: leaf[i], state))
            for block in unit.blocks:

                def apply(x, p, d, block=block):
                    y, stats = block(x, p, d, parallel)
                    return y, jax.tree.map(lambda leaf: leaf[None], stats)

                x, stats = jax.jit(
                    on_device_shards(
                        apply, parallel.mesh, in_specs=(BATCH,) * 3, out_specs=(BATCH, BATCH)
                    )
                )(x, positions, documents)
                if block.kind == "moe":
                    loads.append(np.asarray(stats.exchange.load_e[0]))
    return np.asarray(model.head(x, model.embedding)), np.stack(loads)


@pytest.mark.slow
def test_scanned_stacks_equal_blocks_one_after_another():
    """Mixed kinds and windows: order of layers, of their parameters and of their counts."""
    logits, loads = unrolled(configured(*MIXED))
    result = run(*MIXED)
    np.testing.assert_allclose(result.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.stats.exchange.load_e, loads)
    assert len(np.unique(loads, axis=0)) == len(loads), "equal loads would hide a wrong order"


def test_documents_do_not_see_each_other_and_the_future_is_hidden():
    """Changing a sequence's first document leaves its second one's logits as they were."""
    function = compiled()
    weights, batch = arguments(configured())
    given = sequences()
    changed = np.where(given["segments"] == 1, (given["tokens"] + 1) % 31, given["tokens"])
    before, after = (
        np.asarray(function(weights, batch | {"tokens": tokens[None]})[0][1][0][0])
        for tokens in (given["tokens"], changed.astype(np.int32))
    )
    second = given["segments"] == 2
    np.testing.assert_allclose(after[second], before[second], rtol=1e-4, atol=1e-5)
    assert np.abs(after[~second] - before[~second]).max() > 1e-2


def test_tied_table_is_an_untied_one_used_twice():
    """Same logits as two equal tables, and the sum of their gradients."""
    weights, batch = arguments(configured())
    weights.params["head.output.w_vd"] = weights.params["embedding.w_vd"]
    (_, (logits, *_)), grads = compiled()(weights, batch)
    tied = run("model.tie_embeddings=tied")
    np.testing.assert_allclose(tied.logits, logits[0], rtol=1e-4, atol=1e-5)
    both = np.asarray(grads["embedding.w_vd"] + grads["head.output.w_vd"])
    np.testing.assert_allclose(tied.grads["embedding.w_vd"], both, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_dispatch_remat_sends_nothing_twice():
    """Compiled all-to-alls: as many as without rematerialisation; `full` sends rows again."""

    def sends(remat: str) -> int:
        overrides = (*EIGHT, f"train.remat={remat}", "exchange.overflow=drop")
        text = compiled(*overrides).lower(*arguments(configured(*overrides))).compile().as_text()
        return text.count(" all-to-all(")

    counts = {remat: sends(remat) for remat in ("none", "dispatch", "full")}
    assert counts["none"] > 0
    assert counts["dispatch"] == counts["none"]
    assert counts["full"] > counts["none"]


def test_a_model_without_moe_layers_has_no_counts():
    result = run('model.layers=["dense"]')
    assert result.stats is None
    assert result.auxiliary == 0
    assert not [name for name in result.grads if ".moe." in name]
    assert np.isfinite(result.logits).all()
