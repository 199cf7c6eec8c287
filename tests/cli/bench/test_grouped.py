"""`moe-jax bench grouped`: its options, its run on a CPU, and what it refuses."""

import jax
import pytest

from moe_jax.bench.grouped import check, shapes
from moe_jax.cli.bench import grouped
from moe_jax.cli.main import main


def test_shapes_of_the_help_are_those_there_are(capsys):
    assert set(grouped.SHAPES) == set(shapes.SHAPES)
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "grouped", "--help"])
    assert exit_.value.code == 0
    assert "olmoe" in capsys.readouterr().out


def test_a_run_checks_and_times(monkeypatch, capsys):
    small = shapes.Shape(2, 16, 8, 40)
    monkeypatch.setitem(shapes.SHAPES, "tiny", small)
    checked = []
    monkeypatch.setattr(check, "check", lambda name, report: checked.append(name))
    assert main(["bench", "grouped", "--shapes", "tiny", "--implementation", "blocks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert checked == ["blocks"]
    assert lines[0] == f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    assert [line.split()[0] for line in lines[2:]] == ["balanced", "random", "skewed"]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="what is refused without a GPU")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "mosaic needs a Hopper GPU and the device is a cpu: use --implementation blocks"),
        (["--implementation", "torch"], "--implementation torch needs"),
        (["--implementation", "blocks", "--tune"], "--tune is for mosaic, not for blocks"),
    ],
)
def test_what_cannot_run_here_is_refused(words, message, capsys):
    assert main(["bench", "grouped", *words]) == 2
    assert message in capsys.readouterr().err
