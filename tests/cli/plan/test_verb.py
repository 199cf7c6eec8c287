"""`moe-jax plan`: what it refuses, writes and returns. Figures are tested in tests/planner."""

import dataclasses
import json

import pytest
from support.planner.hand_schedules import one_collective
from support.planner.small_programs import OVERRIDES, PAPER, TARGET, compiled, request

from moe_jax.cli.main import main
from moe_jax.cli.shared import exit_codes
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner import planning
from moe_jax.planner.compile import jobs
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import make_plan
from moe_jax.planner.report.figures import LinkBytes, Memory, MemoryPart
from moe_jax.planner.report.results import Plan
from moe_jax.planner.xla.async_pairs import AsyncPair
from moe_jax.planner.xla.timeline import parse_timelines


@pytest.fixture
def moe_jax(capsys):
    def call(*arguments):
        try:
            code = main(["plan", str(PAPER), *(str(argument) for argument in arguments)])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def hand_plan(hidden_us):
    """A plan of one layer with an all-to-all of 1000 us, beside `hidden_us` of compute."""
    return Plan(
        config=request("forward").config,
        target=TARGET,
        mode="forward",
        memory=Memory("compiled", 10, 9, 20, (MemoryPart("parameters", 10),)),
        step=None,
        wire=LinkBytes("compiled", 1.0, 2.0, 1.0, 2.0, None, None, None),
        collectives=(),
        predicted=None,
        assumptions=("none",),
        versions={},
        timelines=parse_timelines(one_collective(hidden_us)),
    )


@pytest.fixture
def planned(monkeypatch):
    """Makes the verb return a plan; gives what it was asked for."""
    asked = {}

    def install(made):
        def plan(config, target, mode, *, calibration):
            asked.update(config=config, target=target, mode=mode, calibration=calibration)
            return made

        monkeypatch.setattr(planning, "plan", plan)
        return asked

    return install


@pytest.mark.parametrize(
    ("wanted", "code"), [("0.7", exit_codes.OK), ("0.9", exit_codes.NOT_HIDDEN)]
)
def test_require_hidden_has_an_exit_code_of_its_own(moe_jax, planned, wanted, code):
    planned(hand_plan(hidden_us=800))
    found, out, err = moe_jax("--require-hidden", wanted)
    assert found == code
    assert ("forward layer hides" in out) == (code == exit_codes.OK)
    assert ("at least 90.0% must be hidden" in err) == (code == exit_codes.NOT_HIDDEN)
    assert "parameters" in out


def a100_plan(*beside):
    """A plan for GPUs without a timeline, of all-to-alls with that many matmuls beside each."""
    pairs = tuple(
        AsyncPair("all-to-all", f"a2a.{i}", f"done.{i}", "layer", ("while",), n, True, 2**20)
        for i, n in enumerate(beside)
    )
    target = Target(gpu_by_name("a100-80gb"), hosts=2)
    return dataclasses.replace(hand_plan(0), target=target, timelines=(), pairs=pairs)


@pytest.mark.parametrize(
    ("wanted", "code"), [("0.5", exit_codes.OK), ("0.6", exit_codes.NOT_HIDDEN)]
)
def test_without_a_timeline_the_programs_text_tells_what_can_hide(moe_jax, planned, wanted, code):
    planned(a100_plan(3, 0))
    found, out, err = moe_jax("--require-hidden", wanted, "--gpu", "a100-80gb")
    assert found == code
    assert "XLA estimates no times for hosts of 8 x a100-80gb" in out
    assert ("can hide: layer: 2 x all-to-all, 2.0 MiB, of which 50.0%" in out) == (code == 0)
    assert ("at least 60.0% must be hidden" in err) == (code != 0)
    planned(a100_plan())
    assert moe_jax("--require-hidden", wanted)[0] == exit_codes.USER_ERROR


def test_nothing_to_hide_is_a_mistake(moe_jax, planned):
    planned(dataclasses.replace(hand_plan(0), timelines=()))
    code, _, err = moe_jax("--require-hidden", "0.9")
    assert code == exit_codes.USER_ERROR
    assert "no all-to-all in its layers" in err


def test_hosts_are_those_that_the_mesh_fills(moe_jax, planned):
    asked = planned(hand_plan(0))
    assert moe_jax()[0] == exit_codes.OK
    assert (asked["target"].hosts, asked["target"].devices_per_host) == (2, 8)
    assert asked["mode"] == "forward"
    moe_jax("--set", "mesh.expert=4", "--gpu", "H200", "--mode", "train", "--set", "mesh.data=1")
    assert (asked["target"].hosts, asked["target"].devices_per_host) == (1, 4)
    assert (asked["target"].gpu.name, asked["mode"]) == ("h200", "train")


def test_recorded_calibration_is_that_of_the_gpu(moe_jax, planned):
    asked = planned(hand_plan(0))
    moe_jax("--calibration", "recorded")
    assert asked["calibration"].gpu == "h100"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hosts", "3"], "the mesh has 16 devices and 3 hosts x 8 are 24"),
        (["--devices-per-host", "5"], "4 hosts x 5 are 20"),
        (["--hosts", "0"], "hosts is 0: give a whole number, 1 or more"),
        (["--devices-per-host", "0"], "devices_per_host is 0: give a whole number, 1 or more"),
        (["--gpu", "h1000"], "unknown GPU 'h1000'"),
        (["--json", "/nowhere/out.json"], "cannot write /nowhere/out.json"),
        (["--calibration", "/nowhere.toml"], "cannot read the calibration"),
        (["--calibration", "recorded", "--gpu", "b200"], "there is no record of b200"),
        (["--require-hidden", "90"], "must be from 0 to 1"),
        (["--mode", "sleep"], "invalid choice"),
    ],
)
def test_mistakes_are_told_before_anything_compiles(moe_jax, monkeypatch, arguments, message):
    monkeypatch.setattr(planning, "plan", lambda *_, **__: pytest.fail("compiled"))
    code, _, err = moe_jax(*arguments)
    assert code == exit_codes.USER_ERROR
    assert message in err


def test_missing_extra_says_how_to_install_it(moe_jax, monkeypatch):
    monkeypatch.setattr(jobs, "_installed", lambda module: False)
    code, _, err = moe_jax()
    assert code == exit_codes.USER_ERROR
    assert "pip install 'moe-jax[plan]'" in err


@pytest.mark.compile_target
@pytest.mark.slow
def test_json_holds_the_whole_plan(moe_jax, planned, tmp_path):
    planned(make_plan(request("train"), compiled()["train"]))
    sets = [part for override in OVERRIDES for part in ("--set", override)]
    file = tmp_path / "out.json"
    where = ("--hosts", "2", "--devices-per-host", "2", "--mode", "train")
    code, out, _ = moe_jax(*sets, *where, "--json", file)
    assert code == exit_codes.OK
    found = json.loads(file.read_text())
    assert found["step"]["backward"]["layer"]["total_s"] > 0
    assert found["predicted"]["kind"] == "modelled"
    assert "2 x 2 H100" in out
