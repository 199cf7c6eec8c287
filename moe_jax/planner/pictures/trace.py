"""One layer's timeline as Chrome's trace events, for Perfetto (ui.perfetto.dev) and about:tracing.

What is drawn comes from `lanes.py`; the page for people without such a viewer is `page.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from moe_jax.planner.pictures.lanes import Bar, Flight, Lanes

Event = dict[str, Any]


def trace_events(layers: Sequence[Lanes], about: Mapping[str, str]) -> dict[str, Any]:
    """Put layers into the JSON object format of trace events.

    Each layer is a process, each lane a thread of it: compute, exposed moments, then collectives by
    kind. A collective is a slice from its start to its done; nested in it, from its beginning, is
    the time it takes by itself. Times are in µs, all slices "complete" events (phase X).

    Args:
        layers: from `lanes.layer_lanes`.
        about: what the trace shows and whether it is compiled or modelled; shown by the viewers.

    Returns:
        A dict for `json.dump`.

    Source: "Trace Event Format", the Chromium project's specification.
    """
    events = [event for pid, lanes in enumerate(layers, 1) for event in _layer(pid, lanes)]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(about)}


def _layer(pid: int, lanes: Lanes) -> Iterator[Event]:
    yield _metadata("process_name", pid, 0, name=lanes.title)
    yield _metadata("process_sort_index", pid, 0, sort_index=pid)
    tids = count(1)
    yield from _thread(pid, next(tids), "compute", [_bar(b) for b in lanes.bars])
    exposed = [_slice("exposed", "exposed", a, b) for a, b in lanes.exposed]
    yield from _thread(pid, next(tids), "exposed", exposed)
    for o in lanes.overlaps:
        of_kind = [f for f in lanes.flights if f.kind == o.kind]
        for lane in sorted({f.lane for f in of_kind}):
            slices = [s for f in of_kind if f.lane == lane for s in _flight(f)]
            yield from _thread(pid, next(tids), f"{o.kind} {lane + 1}", slices)


def _thread(pid: int, tid: int, name: str, slices: Sequence[Event]) -> Iterator[Event]:
    yield _metadata("thread_name", pid, tid, name=name)
    yield _metadata("thread_sort_index", pid, tid, sort_index=tid)
    for event in slices:
        yield event | {"pid": pid, "tid": tid}


def _metadata(what: str, pid: int, tid: int, **args: str | int) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _slice(name: str, category: str, start_us: float, end_us: float, **args: Any) -> Event:
    known = {key: value for key, value in args.items() if value not in (0, "")}
    times = {"ts": start_us, "dur": end_us - start_us}
    return {"ph": "X", "name": name, "cat": category, **times, "args": known}


def _bar(b: Bar) -> Event:
    about = {"purpose": b.purpose, "instruction": b.name, "origin": b.origin}
    return _slice(b.label, b.category, b.start_us, b.end_us, **about)


def _flight(f: Flight) -> Iterator[Event]:
    about = {"kind": f.kind, "delivers": f.delivers, "delivered_bytes": f.bytes}
    figures = {"own_us": f.own_us, "exposed_us": f.exposed_us}
    yield _slice(f.name, "in flight", f.start_us, f.end_us, **about, **figures)
    own_end = min(f.end_us, f.start_us + f.own_us)
    yield _slice(f.kind, "communication", f.start_us, own_end, **about)
