"""Metrics survive being written, resumed and killed; optional writers say how to install them."""

import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from moe_jax.config import Config, override
from moe_jax.training.reporting.writers import MetricsWriters, MissingWriter
from moe_jax.workdir import METRICS

PLAIN = Config()
TENSORBOARD = override(PLAIN, ['metrics.writers=["tensorboard"]'])
WANDB = override(PLAIN, ['metrics.writers=["wandb"]', "metrics.project=thesis", "name=ep8"])


def write_steps(workdir, steps, config=PLAIN):
    with MetricsWriters(workdir, config, is_main=True) as writers:
        for step in steps:
            writers.write(step, {"loss": 10.0 - step, "layers.load": [1.0, 2.0], "kind": "a"})


def lines(workdir):
    return [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]


def steps_of(workdir):
    return [line["step"] for line in lines(workdir)]


def test_each_record_is_a_line_on_disk_before_the_next_comes(tmp_path):
    writers = MetricsWriters(tmp_path / "new", PLAIN, is_main=True)
    writers.write(1, {"loss": 5.5})
    assert lines(tmp_path / "new") == [{"step": 1, "loss": 5.5}]
    writers.write(1, {"validation_loss": 5.0})
    assert lines(tmp_path / "new")[1] == {"step": 1, "validation_loss": 5.0}
    writers.close()


def test_non_finite_and_numpy_values_become_json(tmp_path):
    with MetricsWriters(tmp_path, PLAIN, is_main=True) as writers:
        values = {"a": float("nan"), "b": np.float32("inf"), "c": np.int64(3), "d": np.ones(2)}
        writers.write(1, values | {"e": [1.0, float("-inf")]})
    expected = {"step": 1, "a": None, "b": None, "c": 3, "d": [1.0, 1.0], "e": [1.0, None]}
    assert lines(tmp_path) == [expected]


def test_resume_drops_the_abandoned_steps_and_no_others(tmp_path):
    write_steps(tmp_path, range(1, 8))
    before = (tmp_path / METRICS).read_bytes().splitlines()
    write_steps(tmp_path, [5, 6])
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / METRICS).read_bytes().splitlines()[:4] == before[:4]


def test_fresh_start_in_an_old_directory_begins_an_empty_file(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, [1])
    assert steps_of(tmp_path) == [1]


def test_resume_that_writes_nothing_leaves_the_file_alone(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, [])
    assert steps_of(tmp_path) == list(range(1, 8))


def test_line_torn_by_a_kill_is_dropped(tmp_path):
    write_steps(tmp_path, [1, 2])
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 3, "lo')
    write_steps(tmp_path, [3])
    assert steps_of(tmp_path) == [1, 2, 3]


def test_foreign_line_is_named_and_nothing_is_lost(tmp_path):
    write_steps(tmp_path, [1, 2])
    with (tmp_path / METRICS).open("a") as file:
        file.write("notes of mine\n")
    content = (tmp_path / METRICS).read_bytes()
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl, line 3 .*notes of mine.*remove the line"
    ):
        write_steps(tmp_path, [2])
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]
    assert (tmp_path / METRICS).read_bytes() == content


def test_failing_rewrite_loses_nothing(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2, 3])
    content = (tmp_path / METRICS).read_bytes()

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_steps(tmp_path, [2])
    assert (tmp_path / METRICS).read_bytes() == content


def test_other_processes_write_nothing(tmp_path):
    with MetricsWriters(tmp_path / "run", TENSORBOARD, is_main=False) as writers:
        writers.write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def tensorboard_scalars(directory):
    """Yields (step, tag, value) of the TFRecords: length, its checksum, event, its checksum."""
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard_gets_numbers_and_one_tag_per_layer(tmp_path):
    write_steps(tmp_path, [1, 2], TENSORBOARD)
    assert list(tensorboard_scalars(tmp_path / "tensorboard")) == [
        (1, "loss", 9.0),
        (1, "layers/load/00", 1.0),
        (1, "layers/load/01", 2.0),
        (2, "loss", 8.0),
        (2, "layers/load/00", 1.0),
        (2, "layers/load/01", 2.0),
    ]


class FakeWandb:
    """Stands in for the wandb module: records what it is called with."""

    def __init__(self):
        self.calls = []

    def init(self, **arguments):
        self.calls.append(arguments)
        return SimpleNamespace(
            id=arguments["id"] or "abc123",
            log=lambda values, step: self.calls.append((step, values)),
            finish=lambda: self.calls.append("finish"),
        )


def test_wandb_gets_the_config_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_steps(tmp_path, [1], WANDB)
    first, logged, end = fake.calls
    assert (first["project"], first["name"], first["id"]) == ("thesis", "ep8", None)
    assert first["config"]["model"]["d_model"] == WANDB.model.d_model
    assert logged == (1, {"loss": 9.0, "layers.load.00": 1.0, "layers.load.01": 2.0})
    assert end == "finish"
    write_steps(tmp_path, [2], WANDB)
    assert (fake.calls[3]["id"], fake.calls[3]["resume"]) == ("abc123", "allow")


def test_missing_writer_is_refused_at_once_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingWriter, match=r"'wandb'.*pip install 'moe-jax\[track\]'"):
        MetricsWriters(tmp_path, WANDB, is_main=True)
