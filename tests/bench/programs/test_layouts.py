"""Layouts side by side on 8 emulated devices: who is compared with whom, and what is counted."""

import json

import jax
import pytest
from support.training_cases import ROOT, settings

from moe_jax.bench.programs.layouts import (
    CAVEAT,
    LayoutTime,
    LayoutTimes,
    fitted,
    measure_layouts,
    reduced,
)
from moe_jax.cli.bench import verb as bench
from moe_jax.cli.bench.tables import layout_table
from moe_jax.cli.main import main
from moe_jax.config import load_config
from moe_jax.config.schema import MeshConfig
from moe_jax.model.flops import flops_per_token

PAPER = ROOT / "configs" / "paper_ep16.toml"
NAIVE = ROOT / "configs" / "paper_baseline_tp8_pp2.toml"
TINY = (
    "model.num_layers=1",
    "model.d_model=16",
    "model.vocab_size=32",
    "model.attention.head_dim=2",
    "model.moe.d_ff=16",
    "exchange.streams=1",
    "train.global_batch=16",
    "train.accumulation=1",
)


@pytest.mark.slow
def test_one_layout_counts_its_own_products():
    one_each = (*TINY, "model.moe.num_experts=8")
    config = reduced(load_config(PAPER), one_each, devices=8)
    assert config.mesh == MeshConfig(expert=8)
    reported = []
    result = measure_layouts([config], "cpu", repeats=2, report=reported.append)
    assert [t.mode for t in result.times] == ["forward", "train"]
    assert list(result.times) == reported
    forward, train = result.times
    tokens = 16 * 32
    assert forward.tokens_per_s * forward.seconds == pytest.approx(tokens)
    # A device has 64 tokens, 16 for each other in the mean; it sends 20, their weights in 2 rows
    # more. Attention computes what the causal mask hides too.
    padding = 8 * 8 * (20 + 2 - 16) * 2 * 2 * 16 * 16
    attention = tokens * 4 * 8 * 2 * 32
    model = tokens * flops_per_token(config).matmul
    assert forward.device_flops * 8 == model + padding + attention
    # Rematerialisation: a second forward pass, and twice that backward.
    assert 3.5 < train.device_flops / forward.device_flops <= 4


@pytest.mark.slow
def test_what_follows_from_data_is_not_counted():
    config = reduced(load_config(PAPER), TINY, devices=8)
    result = measure_layouts([config], "cpu", repeats=2)
    assert [t.device_flops for t in result.times] == [None, None]
    assert layout_table(result).row_count == 2


def times(*seconds):
    return LayoutTimes(
        hardware="none",
        cores=2,
        date="2026-11-23",
        versions={"jax": jax.__version__},
        overrides=("model.d_model=16",),
        repeats=2,
        times=tuple(
            LayoutTime(f"layout{i}", "expert 8", mode, s, s / 10, 100 / s, round(1000 * s))
            for i, s in enumerate(seconds)
            for mode in ("forward", "train")
        ),
    )


def test_the_first_layout_is_what_others_are_compared_with():
    result = times(2.0, 5.0)
    assert [result.ratio(t) for t in result.times] == pytest.approx([1, 1, 0.4, 0.4])
    assert [result.flops_ratio(t) for t in result.times] == pytest.approx([1, 1, 2.5, 2.5])
    found = json.loads(json.dumps(result.to_json()))
    assert found["caveat"] == CAVEAT
    assert found["times"][2]["ratio"] == pytest.approx(0.4)
    cells = [list(column.cells) for column in layout_table(result).columns]
    assert cells[6] == ["1.00 x", "1.00 x", "0.40 x", "0.40 x"]
    assert cells[8] == ["1.00 x", "1.00 x", "2.50 x", "2.50 x"]


@pytest.mark.parametrize(
    ("mesh", "devices", "expected"),
    [
        ({"expert": 16}, 8, {"expert": 8}),
        ({"pipe": 2, "tensor": 8}, 8, {"pipe": 2, "tensor": 4}),
        ({"pipe": 2, "tensor": 8}, 16, {"pipe": 2, "tensor": 8}),
        ({"expert": 16}, 1, {}),
    ],
)
def test_the_largest_axis_is_cut(mesh, devices, expected):
    assert fitted(MeshConfig(**mesh), devices) == MeshConfig(**expected)


def test_a_mesh_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="pipe 2 x tensor 8 cannot be fitted to 7 devices"):
        fitted(MeshConfig(pipe=2, tensor=8), 7)


def test_layouts_of_different_models_are_refused():
    paper = reduced(load_config(PAPER), TINY, devices=8)
    other = reduced(load_config(PAPER), [*TINY, "train.global_batch=32"], devices=8)
    with pytest.raises(ValueError, match=r"differ in train.global_batch \(32 and 16\)"):
        measure_layouts([paper, other], "cpu")


@pytest.mark.slow
def test_bench_layouts_prints_and_writes_every_layout(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "LAYOUTS", bench.LAYOUTS[:1])
    out = tmp_path / "layouts.json"
    argv = ["bench", "layouts", str(NAIVE), *settings([*TINY, "model.num_layers=2"])]
    argv += ["--devices", "8", "--repeats", "2", "--json", str(out)]
    assert main(argv) == 0
    found = json.loads(out.read_text())
    names = [t["layout"] for t in found["times"]]
    assert names == ["paper_ep16"] * 2 + ["paper_baseline_tp8_pp2"] * 2
    # Experts share devices in both.
    assert {t["flops_ratio"] for t in found["times"]} == {None}
    text = capsys.readouterr().out
    for part in ("tensor 4", "tokens/s", "share cores and memory", "of the first", "from data"):
        assert part in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--devices", "5"], "must be a multiple of mesh.expert (5)"),
        (["--devices", "8", "--json", "/no/such/place/x.json"], "cannot write /no/such/place"),
        (["--devices", "8", "--set", "model.d_modl=8"], "model.d_modl"),
        (["nowhere.toml"], "cannot read the configuration nowhere.toml"),
        ([], "JAX has already started with 8 cpu devices"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(argv, message, capsys):
    assert jax.device_count() == 8, "JAX must have started, or 16 devices would be granted"
    assert main(["bench", "layouts", *argv]) == 2
    assert message in capsys.readouterr().err
