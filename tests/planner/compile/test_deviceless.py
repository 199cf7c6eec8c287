"""One compile inside the worker: what it asks of XLA and what it collects. XLA is played here."""

import pytest
from support.planner.stub_program import Stub

from moe_jax.errors import UserError
from moe_jax.planner.compile import deviceless
from moe_jax.planner.compile.deviceless import compile_program, load_builder

BUFFERS, SCHEDULE = "m_1.gpu_after_optimizations.hlo.pb", "m_1.schedule.txt"


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """What is compiled in place of "any:program"."""

    def install(**files):
        stub = Stub(tmp_path, files)

        def build(mesh, size):
            assert (mesh, size) == ("a mesh", 7)
            return stub, ("an argument",)

        monkeypatch.setattr(deviceless, "load_builder", {"any:program": build}.__getitem__)
        return stub

    return install


def compiled(tmp_path, **options):
    return compile_program("a mesh", "any:program", {"size": 7}, options, tmp_path)


def test_everything_that_xla_leaves_is_collected(stub, tmp_path):
    program = stub(**{BUFFERS: "buffers", SCHEDULE: "schedule", "m_1.other.txt": ""})
    found = compiled(tmp_path)
    assert found.figures == {
        "argument_bytes": 1,
        "output_bytes": 2,
        "alias_bytes": 3,
        "temp_bytes": 4,
        "peak_bytes": 5,
    }
    assert (found.hlo_text, found.schedule_text) == ("HloModule stub", "schedule")
    assert found.buffers == b"buffers"
    assert program.asked["arguments"] == ("an argument",)
    assert program.asked["platforms"] == ("cuda",)


def test_a_jobs_options_go_before_ours(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(deviceless, "target_options", lambda: {"a": 1, "b": 2})
    program = stub(**{BUFFERS: ""})
    compiled(tmp_path, b=3, c=4)
    assert program.asked["options"] == {"a": 1, "b": 3, "c": 4}


def test_what_an_earlier_program_left_is_not_taken_for_its_own(stub, tmp_path):
    (tmp_path / "m_0.schedule.txt").write_text("another's")
    stub(**{BUFFERS: "mine"})
    assert compiled(tmp_path).schedule_text == ""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"wrote 0 files \*gpu_after_optimizations.hlo.pb"),
        ({BUFFERS: "", SCHEDULE: "", "m_2.schedule.txt": ""}, r"wrote 2 files \*.schedule.txt"),
    ],
)
def test_dumps_that_cannot_be_told_apart_are_refused(stub, tmp_path, files, message):
    stub(**files)
    with pytest.raises(UserError, match=message):
        compiled(tmp_path)


def test_builders_are_named_by_module_and_function():
    named = "moe_jax.planner.compile.deviceless:load_builder"
    assert load_builder(named) is load_builder
    for spec in ("no_colon", ":function", "module:"):
        with pytest.raises(UserError, match="build must be 'module:function'"):
            load_builder(spec)
    with pytest.raises(UserError, match="has no function 'PLATFORM' to build"):
        load_builder("moe_jax.planner.compile.deviceless:PLATFORM")
