"""Chrome's trace events: the format's rules, and that nothing of the lanes is lost."""

import json
from itertools import pairwise

import pytest
from support.planner.hand_lanes import hand_lanes

from moe_jax.planner.pictures.trace import trace_events


@pytest.fixture(scope="module")
def trace():
    return json.loads(json.dumps(trace_events(hand_lanes(), {"kind": "compiled"})))


def slices(trace, **wanted):
    found = (e for e in trace["traceEvents"] if e["ph"] == "X")
    return [e for e in found if all(e[key] == value for key, value in wanted.items())]


def names(trace, what):
    found = (e for e in trace["traceEvents"] if e["name"] == what)
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in found}


def test_object_format(trace):
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert trace["otherData"] == {"kind": "compiled"}


def test_every_event_has_the_fields_of_its_phase(trace):
    for event in trace["traceEvents"]:
        assert {"name", "ph", "pid", "tid", "args"} <= set(event)
        assert event["ph"] in ("X", "M")
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["ts"] >= 0
            assert event["cat"]


def test_layers_are_processes_and_lanes_are_threads(trace):
    assert list(names(trace, "process_name").values()) == ["Forward layer", "Backward layer"]
    threads = names(trace, "thread_name")
    assert [name for (pid, _), name in threads.items() if pid == 1] == [
        "compute",
        "exposed",
        "all-to-all 1",
        "all-to-all 2",
    ]
    assert {(e["pid"], e["tid"]) for e in slices(trace)} <= set(threads)


def test_slices_of_a_thread_nest(trace):
    # Viewers draw overlapping slices of one thread wrongly: each must end before the next begins,
    # or within the one it is nested in.
    for pid, tid in names(trace, "thread_name"):
        mine = sorted(slices(trace, pid=pid, tid=tid), key=lambda e: (e["ts"], -e["dur"]))
        for a, b in pairwise(mine):
            end = a["ts"] + a["dur"]
            assert b["ts"] >= end - 1e-6 or b["ts"] + b["dur"] <= end + 1e-6


def test_figures_survive(trace):
    for pid, lanes in enumerate(hand_lanes(), 1):
        exposed = sum(e["dur"] for e in slices(trace, pid=pid, cat="exposed"))
        assert exposed == pytest.approx(lanes.exposed_us)
        own = sum(e["dur"] for e in slices(trace, pid=pid, cat="communication"))
        assert own == pytest.approx(lanes.communication_us)
        for category in ("matmul", "attention", "other"):
            busy = sum(e["dur"] for e in slices(trace, pid=pid, cat=category))
            assert busy == pytest.approx(lanes.busy_us(category))


def test_collectives_name_their_kind_and_bytes(trace):
    for event in slices(trace, cat="in flight") + slices(trace, cat="communication"):
        assert event["args"]["kind"] == "all-to-all"
        assert event["args"]["delivers"] == "bf16[8,4]"
        assert event["args"]["delivered_bytes"] == 64
