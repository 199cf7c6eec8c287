"""`moe-jax bench rivals`: its options, what it prints and writes, and what it refuses."""

import json

import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS, SHAPES
from moe_jax.bench.rivals import contest
from moe_jax.bench.rivals.row import Row
from moe_jax.cli.bench import rivals, tables
from moe_jax.cli.main import main


def test_choices_of_the_help_are_those_there_are():
    assert set(rivals.SHAPES) == set(SHAPES)
    assert rivals.ROUTINGS == ROUTINGS


def test_rows_are_printed_as_they_come_and_written(monkeypatch, capsys, tmp_path):
    asked = []

    def hold(task, work, only, limit_s):
        asked.append((task, only, limit_s, work("4").tokens))
        yield Row("moe_jax", "4", "timed", seconds=0.5, flops=1e12, dropped=3, padded=0)
        yield Row("torch", "4", "out of memory", "9 GiB")

    monkeypatch.setattr(contest, "hold", hold)
    # Asking JAX would take the GPU from the contestants.
    monkeypatch.setattr(tables.jax, "process_index", lambda: 1)
    file = tmp_path / "rows.json"
    words = [
        "--what",
        "step",
        "--shape",
        "tiny",
        "--batch",
        "4",
        "--length",
        "8",
        "--only",
        "moe_jax",
    ]
    assert main(["bench", "rivals", *words, "--set", "train.remat=full", "--json", str(file)]) == 0
    (task, only, limit_s, tokens) = asked[0]
    assert (task.what, task.cases, task.overrides) == (
        "step",
        ("4",),
        ("train.remat=full",),
    )
    assert (only, limit_s, tokens) == (("moe_jax",), 240.0, 32)
    printed = capsys.readouterr().out
    assert "4, moe_jax: 500 ms, 2 TFLOP/s" in printed
    assert "4, torch: out of memory: 9 GiB" in printed
    assert [row["outcome"] for row in json.loads(file.read_text())["rows"]] == [
        "timed",
        "out of memory",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "must be 1 or more"),
        (["--repeats", "1"], "--repeats (1) must be 2 or more"),
        (["--json", "/nowhere/rows.json"], "cannot write /nowhere/rows.json"),
    ],
)
def test_numbers_out_of_range_are_refused(words, message, capsys):
    assert main(["bench", "rivals", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_contest_of_layers(capsys):
    words = ["--shape", "tiny", "--tokens", "24", "--routing", "skewed", "--repeats", "2"]
    assert main(["bench", "rivals", *words]) == 0
    printed = capsys.readouterr().out
    for name in ("moe_jax", "torch, loop over experts", "transformers grouped_mm"):
        assert f"skewed, {name}: " in printed
    assert "jax ragged_dot_mgpu: skipped: runs on gpu only" in printed
    assert not any(word in printed for word in ("failed", "wrong"))
