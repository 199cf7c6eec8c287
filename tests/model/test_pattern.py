"""Layer patterns: what is stacked, what is repeated, and which MoE layer each row is."""

import itertools

import pytest

from moe_jax.config import Config
from moe_jax.config.model_schema import ModelConfig
from moe_jax.model.pattern import LayerRun, LayerSpec, layer_runs, layer_sequence, moe_rows

DENSE, MOE = LayerSpec("dense", 0), LayerSpec("moe", 0)


def model(kinds: tuple[str, ...], layers: int, windows: tuple[int, ...] = (0,)) -> ModelConfig:
    base = Config().model
    attention = base.attention.model_copy(update={"windows": windows})
    return base.model_copy(update={"layers": kinds, "num_layers": layers, "attention": attention})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (model(("moe",), 4), (LayerRun((MOE,), 4),)),
        (model(("dense",), 1), (LayerRun((DENSE,), 1),)),
        (model(("dense", "moe"), 6), (LayerRun((DENSE, MOE), 3),)),
        # DeepSeek: one dense layer, then MoE layers.
        (model(("dense", "moe", "moe", "moe"), 4), (LayerRun((DENSE,), 1), LayerRun((MOE,), 3))),
        (
            model(("moe",), 4, (8, 0)),
            (LayerRun((LayerSpec("moe", 8), LayerSpec("moe", 0)), 2),),
        ),
        # No repetition to be had: nothing is cut off in front of it either.
        (model(("dense", "moe"), 3), (LayerRun((DENSE, MOE, DENSE), 1),)),
    ],
)
def test_fewest_distinct_layers_are_compiled(given, wanted):
    assert layer_runs(given) == wanted


def test_windows_and_kinds_repeat_independently():
    specs = layer_sequence(model(("dense", "moe"), 6, (4, 0, 0)))
    assert [(spec.kind, spec.window) for spec in specs] == [
        ("dense", 4),
        ("moe", 0),
        ("dense", 0),
        ("moe", 4),
        ("dense", 0),
        ("moe", 0),
    ]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (model(("moe",), 3), {(0, 0): [0, 1, 2]}),
        (model(("dense", "moe"), 4), {(0, 1): [0, 1]}),
        (model(("dense", "moe", "moe", "moe"), 4), {(1, 0): [0, 1, 2]}),
        (model(("moe",), 4, (8, 0)), {(0, 0): [0, 2], (0, 1): [1, 3]}),
        (model(("dense",), 4), {}),
    ],
)
def test_moe_rows_count_moe_layers_over_the_model(given, wanted):
    assert moe_rows(given) == wanted


def test_runs_written_out_are_the_layers_and_rows_cover_them_once():
    kinds = [k for n in (1, 2, 3) for k in itertools.product(("dense", "moe"), repeat=n)]
    for pattern, windows, layers in itertools.product(kinds, ((0,), (4, 0)), (3, 4, 6, 7)):
        given = model(pattern, layers, windows)
        cut = layer_runs(given)
        assert sum((s.unit * s.repeats for s in cut), ()) == layer_sequence(given)
        rows = moe_rows(given)
        count = sum(spec.kind == "moe" for spec in layer_sequence(given))
        assert sorted(row for place in rows.values() for row in place) == list(range(count))
        assert all(len(found) == cut[stack].repeats for (stack, _), found in rows.items())
