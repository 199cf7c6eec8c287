"""A plan's file is read for its step's times; what is none says how to write one."""

import json

import pytest

from moe_jax.bench.programs.planned import read_planned
from moe_jax.errors import UserError
from moe_jax.planner.report.figures import Times

TIMES = {
    "total_s": 2.0,
    "compute_s": 1.5,
    "matmul_s": 1.0,
    "attention_s": 0.25,
    "other_s": 0.25,
    "comm_s": 0.75,
    "exposed_comm_s": 0.5,
}


def test_the_whole_steps_times_are_read(tmp_path):
    file = tmp_path / "plan.json"
    total = TIMES | {"hidden_comm_s": 0.25}
    file.write_text(json.dumps({"mode": "train", "step": {"total": total}}))
    assert read_planned(file) == Times(**TIMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is no plan"),
        ('{"mode": "train"}', "is no plan"),
        ('{"mode": "forward", "step": {}}', "a plan of mode forward"),
        ('{"mode": "train", "step": null}', "without times of a step"),
    ],
)
def test_what_is_no_plan_of_a_step_is_refused(tmp_path, text, message):
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_planned(file)
    assert f"moe-jax plan CONFIG --mode train --json {file}" in str(error.value)
