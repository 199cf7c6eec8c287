"""`moe-jax plan --scaling`: which sizes are planned, what is printed, written and drawn."""

import json

import pytest
from support.planner.hand_plans import CONFIGS, hand_plan

from moe_jax.cli.main import main
from moe_jax.planner import planning

COMMAND = ("plan", str(CONFIGS / "paper_ep16.toml"))


@pytest.fixture
def planned(monkeypatch):
    """Plans by hand: the larger, the more a layer exposes; yields the requests."""
    asked = []

    def plan_all(requests, *, calibration):
        asked.extend(requests)
        return tuple(hand_plan(r, exposed_ms=r.target.devices / 8) for r in requests)

    monkeypatch.setattr(planning, "plan_all", plan_all)
    return asked


def test_each_size_is_planned_on_its_own_cluster(planned, capsys):
    assert main([*COMMAND, "--scaling", "128,16,64"]) == 0
    assert [r.target.hosts for r in planned] == [2, 8, 16]
    assert [r.config.model.moe.num_experts for r in planned] == [16, 64, 128]
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " grow " in line]
    assert [line[2] for line in lines] == ["16", "64", "128"]
    # Layers of 102, 108 and 116 ms.
    assert [line[-2] for line in lines] == ["100.0%", "94.4%", "87.9%"]
    assert {line[-1] for line in lines} == {"modelled"}


def test_hosts_need_to_be_filled_by_the_sizes_asked_for_only(planned):
    """The 16 devices of the config itself are no multiple of 6."""
    assert main([*COMMAND, "--scaling", "12,18", "--devices-per-host", "6"]) == 0
    assert [(r.target.hosts, r.target.devices_per_host) for r in planned] == [(2, 6), (3, 6)]


def test_both_readings_are_two_curves(planned, tmp_path):
    out = tmp_path / "scaling.json"
    options = ["--scaling", "16,32", "--scaling-by", "both", "--json", str(out)]
    assert main([*COMMAND, *options]) == 0
    found = json.loads(out.read_text())
    assert [curve["label"] for curve in found["curves"]] == ["experts grow", "replicas grow"]
    assert [r.config.mesh.data for r in planned] == [1, 1, 1, 2]
    plan = found["plans"]["paper_ep16_replicas_32"]
    assert plan["predicted"]["step_s"] == found["curves"][1]["points"][1]["step_s"]


def test_plot_is_drawn(planned, tmp_path):
    plot = tmp_path / "scaling.svg"
    assert main([*COMMAND, "--scaling", "16,32", "--plot", str(plot)]) == 0
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.svg"], "only --scaling reads --plot: add --scaling 16,32,64"),
        (["--scaling-by", "both"], "only --scaling reads --scaling-by"),
        (["--scaling", "16", "--timeline", "a.html"], "--scaling does not read --timeline"),
        (["--scaling", "16", "--hosts", "2"], "--scaling does not read --hosts"),
        (["--scaling", "16", "--search"], "--search does not read --scaling"),
        (["--scaling", "12", "--plot", "a.xyz"], "a.xyz must end in a format"),
        (["--scaling", "16", "--plot", "none/a.svg"], "cannot write none/a.svg"),
        (["--scaling", "40", "--scaling-by", "replicas"], "multiples of 16 devices"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_compiles(
    options, message, planned, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, *options]) == 2
    assert message in capsys.readouterr().err
    assert not planned


@pytest.mark.parametrize("sizes", ["16;32", "0", "a", ""])
def test_sizes_must_be_numbers_of_devices(sizes, capsys):
    with pytest.raises(SystemExit):
        main([*COMMAND, "--scaling", sizes])
    assert "must be numbers of devices, such as 16,32,64" in capsys.readouterr().err
