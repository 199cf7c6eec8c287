"""A worker's run through its jobs, in this process; compiling is played here."""

import json

import pytest

from moe_jax.planner.compile import worker
from moe_jax.planner.compile.deviceless import Program

MESH = {"pipe": 1, "data": 1, "fsdp": 1, "expert": 4, "tensor": 1}


@pytest.fixture
def request_file(tmp_path, monkeypatch):
    """A request of jobs by the name of their builder; "broken" ones fail."""
    (tmp_path / "out").mkdir()

    def compile_program(mesh, build, kwargs, options, dump_dir):
        if build == "broken":
            raise RuntimeError("cannot be built")
        return Program({"peak_bytes": kwargs["n"]}, f"hlo of {build} on {mesh}", "", b"\x01")

    def target_mesh(text, hosts, devices_per_host, config):
        return f"{text}: {hosts} x {devices_per_host}, expert={config.expert}"

    monkeypatch.setattr(worker, "compile_program", compile_program)
    monkeypatch.setattr(worker, "target_mesh", target_mesh)

    def write(*builds):
        jobs = [
            {"build": build, "mesh": MESH, "kwargs": {"n": n}, "options": {}}
            for n, build in enumerate(builds)
        ]
        cluster = {"target_text": "gpu", "hosts": 2, "devices_per_host": 2, "dump_dir": "dumps"}
        path = tmp_path / "request.json"
        path.write_text(json.dumps(cluster | {"jobs": jobs}))
        return str(path), str(tmp_path / "out")

    return write


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_every_job_leaves_its_files(request_file, tmp_path):
    assert worker.run_request(*request_file("first", "second")) == 0
    kinds = ("buffers", "hlo", "json", "schedule")
    assert names(tmp_path) == [f"{i}.{kind}" for i in (0, 1) for kind in kinds]
    assert json.loads((tmp_path / "out" / "1.json").read_text()) == {"peak_bytes": 1}
    text = (tmp_path / "out" / "0.hlo").read_text()
    assert text == "hlo of first on gpu: 2 x 2, expert=4"


def test_the_first_failure_is_reported_and_ends_the_run(request_file, tmp_path):
    assert worker.run_request(*request_file("first", "broken", "third")) == 1
    assert "2.json" not in names(tmp_path)
    report = json.loads((tmp_path / "out" / "error.json").read_text())
    assert (report["job"], report["message"]) == (1, "RuntimeError: cannot be built")
    assert "compile_program" in report["traceback"]
