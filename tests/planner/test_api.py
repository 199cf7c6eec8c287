"""`moe_jax.plan`: which cluster, which program and which rates its arguments stand for."""

import pytest
from support.places import CONFIGS

import moe_jax
from moe_jax.config import load_config
from moe_jax.hardware.calibration import recorded, save_calibration
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner import api, planning

PAPER = CONFIGS / "paper_ep16.toml"


@pytest.fixture
def planned(monkeypatch):
    """Makes nothing compile; gives what was asked for."""
    asked = {}

    def plan(config, target, mode, *, calibration):
        asked.update(config=config, target=target, mode=mode, calibration=calibration)
        return "a plan"

    monkeypatch.setattr(planning, "plan", plan)
    return asked


def test_a_path_and_a_gpu_are_enough(planned):
    assert moe_jax.plan(PAPER) == "a plan"
    assert planned["config"] == load_config(PAPER)
    target = planned["target"]
    assert (target.gpu.name, target.hosts, target.devices_per_host) == ("h100", 2, 8)
    assert (planned["mode"], planned["calibration"]) == ("forward", None)


def test_a_config_and_a_cluster_of_other_hosts(planned):
    config = load_config(PAPER)
    moe_jax.plan(config, gpu="H200", hosts=4, devices_per_host=4, mode="train")
    target = planned["target"]
    assert planned["config"] is config
    assert (target.gpu.name, target.hosts, target.devices_per_host) == ("h200", 4, 4)
    assert planned["mode"] == "train"


def test_a_target_takes_the_place_of_all_that(planned):
    target = moe_jax.Target(gpu_by_name("b200"), hosts=2)
    moe_jax.plan(PAPER, target=target)
    assert planned["target"] is target


def test_rates_are_a_file_our_record_or_at_hand(planned, tmp_path):
    ours = recorded("h100")
    assert ours is not None
    save_calibration(ours, tmp_path / "mine.toml")
    for given in ("recorded", str(tmp_path / "mine.toml"), tmp_path / "mine.toml", ours):
        moe_jax.plan(PAPER, calibration=given)
        assert planned["calibration"] == ours


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gpu": "h1000"}, "unknown GPU 'h1000'"),
        ({"hosts": 3}, "the mesh has 16 devices and 3 hosts x 8 are 24"),
        ({"devices_per_host": 0}, r"devices_per_host is 0: give a whole number, 1 or more"),
        ({"hosts": "2"}, r"hosts is '2': give a whole number"),
        ({"hosts": 2.0}, r"hosts is 2\.0: give a whole number"),
        ({"gpu": None}, r"gpu is None: give its name"),
        ({"target": "h100"}, r"target is 'h100': give a Target"),
        ({"mode": "fwd"}, r"mode is 'fwd': give forward, train, decode"),
        ({"gpu": "b200", "calibration": "recorded"}, "there is no record of b200"),
        ({"calibration": "none.toml"}, r"cannot read the calibration none\.toml"),
        ({"hardware": "none.toml"}, r"cannot read the hardware file none\.toml"),
    ],
)
def test_mistakes_are_told_before_anything_compiles(planned, arguments, message):
    with pytest.raises(moe_jax.UserError, match=message):
        moe_jax.plan(PAPER, **arguments)
    assert not planned


def test_a_search_may_have_another_number_of_devices():
    target = api.target_for(load_config(PAPER), hosts=1, mesh_varies=True)
    assert target.devices == 8
