"""History from metrics.jsonl: one row a step, what is missing as NaN, damage named."""

import json

import numpy as np
import pytest

from moe_jax.errors import UserError
from moe_jax.training.reporting.history import read_history
from moe_jax.workdir import METRICS


def write(workdir, *records, end="\n"):
    text = "\n".join(map(json.dumps, records)) + end
    (workdir / METRICS).write_text(text)


def test_values_stand_beside_their_steps(tmp_path):
    write(
        tmp_path,
        {"step": 1, "loss": 3.0, "skipped": 0, "memory_kind": "host", "layers.sent": [1.0, 2.0]},
        {"step": 2, "loss": None, "skipped": 1, "memory_kind": "host", "layers.sent": [3.0, 4.0]},
        {"step": 2, "validation_loss": 2.5},
    )
    history = read_history(tmp_path)
    np.testing.assert_array_equal(history["step"], [1, 2])
    assert history["step"].dtype == history["skipped"].dtype == np.int64
    np.testing.assert_array_equal(history["loss"], [3.0, np.nan])
    np.testing.assert_array_equal(history["validation_loss"], [np.nan, 2.5])
    np.testing.assert_array_equal(history["layers.sent"], [[1, 2], [3, 4]])
    assert history["memory_kind"].tolist() == ["host", "host"]


def test_steps_are_in_order_and_the_last_word_counts(tmp_path):
    write(tmp_path, {"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    np.testing.assert_array_equal(read_history(tmp_path)["loss"], [3.0, 2.0])


def test_a_value_that_no_step_has_is_nan_and_no_layers_are_none(tmp_path):
    write(tmp_path, {"step": 1, "mfu": None, "layers.sent": []})
    history = read_history(tmp_path)
    assert np.isnan(history["mfu"]).all()
    assert history["layers.sent"].shape == (1, 0)


def test_a_run_without_metrics_has_no_history(tmp_path):
    assert read_history(tmp_path) == {}


def test_what_a_killed_process_was_writing_is_left_out(tmp_path):
    write(tmp_path, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, end="")
    np.testing.assert_array_equal(read_history(tmp_path)["step"], [1])


@pytest.mark.parametrize("line", ["[1]", "{}", "no", "[" * 20_000, '{"step": "a"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / METRICS).write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"{METRICS}, line 2 is no record with a step"):
        read_history(tmp_path)
