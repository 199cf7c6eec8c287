"""What a step does outside its layers, against the collectives that it is made of."""

import pytest
from support.planner.layer_models import NAIVE, TUNED, layer_model

from moe_jax.axes import DATA, EXPERT, PIPE
from moe_jax.hardware.network import collective_time
from moe_jax.planner.modelled.outside import OutsideModel

ROW = 4096 * 2


def outside(*changes, **more) -> OutsideModel:
    return OutsideModel(layer_model(*changes, **more))


def test_a_stage_sends_a_microbatch_to_the_next():
    found = outside(name=TUNED)
    share, layers = found.share, found.layers
    size = share.tokens * ROW / share.token_shards
    expected = collective_time("collective-permute", size, layers.group(PIPE), layers.topology)
    assert found.send() == pytest.approx(expected)


def test_without_a_pipeline_a_pass_is_the_head_alone():
    found = outside()
    assert found.once() == found.layers.compute.head()


def test_a_pipelines_ends_hand_rows_in_and_out_and_layers_where_they_are_out_of_order():
    naive, tuned = (outside(name=name, mode="forward").once() for name in (NAIVE, TUNED))
    assert naive.stages > 0 == naive.weights
    assert tuned.weights > 0
    # Backward does it all again.
    assert outside(name=TUNED).once().stages == pytest.approx(2 * tuned.stages)


def test_new_parameters_come_back_from_those_who_updated_them():
    """Of the paper's model all but experts, whose only holder updates them."""
    found = outside()
    share, layers = found.share, found.layers
    sizes = [
        share.parameters.ends,
        *(n * share.parameters.dense[s] for s, n in share.layers.items()),
    ]
    group = layers.group(DATA, EXPERT)
    each = [collective_time("all-gather", 2 * n, group, layers.topology) for n in sizes]
    assert found.update().weights == pytest.approx(sum(each))
    kept = outside("sharding.optimizer=parameter").update()
    assert kept.weights == 0
    assert kept.gradients == pytest.approx(layers.end_sums())
