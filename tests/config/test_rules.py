"""Rules that span sections, and how all are run; those of model and mesh: see their tests."""

import pytest
from support.config_problems import VALID, problems

from moe_jax.config import Config, ConfigError, check, override

CASES = {
    "batch": (["train.global_batch=20"], ["(20)", "multiple of 8", "16 or 24"]),
    "batch_streams": (
        ["exchange.streams=2", "train.accumulation=3", "train.global_batch=16"],
        ["(16)", "48", "accumulation (3)", "streams (2)", "expert 8", "to 48"],
    ),
    "wsd": (["schedule.kind=wsd"], ["decay_steps = 0", "decay_steps to 40", "kind=constant"]),
    "wsd_length": (
        ["schedule.kind=wsd", "schedule.decay_steps=190"],
        ["(20)", "(190)", "(200)", "train.steps to 210"],
    ),
    "warmup": (["train.steps=10"], ["warmup_steps (20)", "steps (10)", "to 20"]),
    "profile_one": (["train.profile_steps=[10]"], ["[10]", "[10, 12]"]),
    "profile_order": (["train.profile_steps=[12,12]"], ["[12, 12]", "start < stop"]),
    "profile_end": (["train.profile_steps=[12,900]"], ["[12, 900]", "(200)"]),
    "no_paths": (["data.source=files"], ["data.paths", "empty"]),
    "paths": (["data.paths=['a.txt']"], ["['a.txt']", "stdlib", "source=files", "paths=[]"]),
    "validation_paths": (["data.validation_paths=['a']"], ["validation_paths", "source=files"]),
    "nothing_held_out": (
        ["train.validation_every=5", "data.validation_fraction=0"],
        ["validation_every = 5", "validation_fraction=0.05", "validation_every=0"],
    ),
    "master": (["precision.master=float32"], ["params=bfloat16", "float32", "master=none"]),
}
FINE = {
    "defaults": [],
    "files": ["data.source=files", "data.paths=['a.txt']", "data.validation_paths=['b.txt']"],
    "wsd": ["schedule.kind=wsd", "schedule.decay_steps=180"],
    "profile": ["train.profile_steps=[0,200]"],
    "master": ["precision.master=float32", "precision.params=bfloat16"],
}
BROKEN = pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
ALLOWED = pytest.mark.parametrize("changes", FINE.values(), ids=FINE)


@BROKEN
def test_broken_rule_names_values_and_remedy(changes, expected):
    (problem,) = problems(changes)
    for part in expected:
        assert part in problem


@ALLOWED
def test_consistent_config_passes(changes):
    assert not problems(changes)


@pytest.mark.parametrize(
    ("devices", "remedies"),
    [(4, "mesh.expert=4"), (16, "mesh.expert=16 or mesh.data=2"), (6, "mesh.expert=6")],
)
def test_wrong_device_count_suggests_axes_that_fit(devices, remedies):
    with pytest.raises(ConfigError) as caught:
        check(VALID, device_count=devices)
    assert "has 8 devices (pipe 1 x data 1 x fsdp 1 x expert 8 x tensor 1)" in str(caught.value)
    assert f"the job has {devices}: set {remedies}, start the job on 8" in str(caught.value)


@pytest.mark.parametrize("devices", [None, 8])
def test_matching_device_count_passes(devices):
    check(VALID, device_count=devices)


def test_device_count_without_a_fitting_axis():
    config = override(Config(), ["mesh.data=2", "mesh.expert=4", "train.global_batch=8"])
    with pytest.raises(ConfigError, match="set the axes so that their product matches"):
        check(config, device_count=3)


def test_all_broken_rules_are_listed():
    changes = ["model.moe.top_k=9", "model.attention.kv_heads=3", "precision.master=float32"]
    with pytest.raises(ConfigError, match="the configuration 'run' cannot run") as caught:
        check(override(VALID, changes), device_count=2)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "a/b", "a\\b"])
def test_a_name_is_a_directory_of_its_own(name):
    with pytest.raises(ConfigError) as caught:
        check(VALID.model_copy(update={"name": name}))
    (problem,) = caught.value.problems
    assert f"name ({name!r})" in problem
    assert "set name to one word" in problem
