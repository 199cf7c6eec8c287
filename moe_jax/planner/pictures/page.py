"""One layer's timeline as an HTML page that needs nothing but itself.

Markup is made here, how it looks and moves is in `page.html` (its style and script), what is drawn
in `lanes.py`. Chrome's trace format is `trace.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import groupby

from moe_jax.planner.pictures.lanes import Bar, Flight, Lanes


@dataclass(frozen=True)
class Fact:
    """A figure for the head of the page. `kind`: compiled, modelled or measured; "" for a given."""

    label: str
    value: str
    kind: str = ""


def timeline_page(
    layers: Sequence[Lanes],
    *,
    title: str,
    subtitle: str,
    kind: str,
    facts: Sequence[Fact] = (),
    notes: Sequence[str] = (),
) -> str:
    """Draw layers as a page: a compute lane, communication lanes, exposed moments marked.

    Args:
        layers: from `lanes.layer_lanes`.
        title: what was compiled.
        subtitle: for what.
        kind: what the times are: compiled or modelled.
        facts: further figures, such as memory and predicted speed.
        notes: what the times rest on, one sentence each.

    Returns:
        A complete HTML document; it refers to nothing outside itself.
    """
    slots = {
        "TITLE": escape(title),
        "SUBTITLE": escape(subtitle),
        "FACTS": _facts(facts),
        "LAYERS": "\n".join(_layer(lanes, kind) for lanes in layers),
        "NOTES": "".join(f"<li>{escape(note)}</li>" for note in notes),
    }
    page = (
        resources.files("moe_jax.planner.pictures")
        .joinpath("page.html")
        .read_text(encoding="utf-8")
    )
    for name, content in slots.items():
        page = page.replace(f"<!--{name}-->", content)
    return page


def _facts(facts: Sequence[Fact]) -> str:
    if not facts:
        return ""
    return f'<dl class="card figures">{"".join(_fact(f) for f in facts)}</dl>'


def _fact(fact: Fact) -> str:
    badge = f" {_badge(fact.kind)}" if fact.kind else ""
    return f"<div><dt>{escape(fact.label)}</dt><dd>{escape(fact.value)}{badge}</dd></div>"


def _badge(kind: str) -> str:
    return f'<span class="kind">{escape(kind)}</span>'


def _layer(lanes: Lanes, kind: str) -> str:
    return f"""<section class="card layer" data-total="{lanes.total_us:.3f}">
<h2>{escape(lanes.title)} {_badge(kind)}</h2>
<dl class="figures">{"".join(_figures(lanes))}</dl>
<div class="share" aria-hidden="true">{"".join(_shares(lanes))}</div>
<ul class="legend">{"".join(_legend(lanes))}</ul>
<div class="tools"><button class="out" aria-label="zoom out">&minus;</button>
<button class="in" aria-label="zoom in">+</button><button class="fit">whole layer</button>
<span class="dim">scroll sideways, point at a bar</span></div>
<div class="view" tabindex="0" role="group" aria-label="timeline of the {escape(lanes.title)}">
<div class="chart">
{"".join(_lanes(lanes))}
{"".join(_marks(lanes))}<div class="band" hidden></div>
<div class="axis"></div>
</div></div>
<div class="details dim" aria-live="polite">Choose a bar to see what it is.</div>
</section>"""


def _figures(lanes: Lanes) -> Iterator[str]:
    communication, exposed = lanes.communication_us, lanes.exposed_us
    for label, value, style in (
        ("total", _time(lanes.total_us), ""),
        ("compute", _time(lanes.compute_us), ""),
        ("communication", _time(communication), ""),
        ("of it hidden", _time(lanes.hidden_us), ""),
        ("of it exposed", _time(exposed), "alarm"),
        ("exposed share", f"{exposed / communication:.1%}", "alarm"),
    ):
        yield f'<div><dt>{label}</dt><dd class="{style}">{value}</dd></div>'


def _parts(lanes: Lanes) -> Iterator[tuple[str, float]]:
    """Yield what adds up to the layer's time, by style class."""
    for category in ("matmul", "attention", "other"):
        yield category, lanes.busy_us(category)
    yield "exposed", lanes.exposed_us
    yield "idle", max(0.0, lanes.total_us - lanes.compute_us - lanes.exposed_us)


def _shares(lanes: Lanes) -> Iterator[str]:
    for name, us in _parts(lanes):
        yield f'<i class="{name}" style="width:{100 * us / lanes.total_us:.3f}%"></i>'


def _legend(lanes: Lanes) -> Iterator[str]:
    for name, us in _parts(lanes):
        if us >= 1:  # what rounds to nothing is no idle time
            share = f"{us / lanes.total_us:.1%}"
            yield f'<li><i class="{name}"></i>{name} {_time(us)} ({share})</li>'
    yield '<li><i class="own"></i>collective, its own time</li>'
    yield '<li><i class="waiting"></i>arrived, not needed yet</li>'


def _lanes(lanes: Lanes) -> Iterator[str]:
    yield '<div class="name">compute</div>\n'
    yield f'<div class="lane compute">{"".join(_bar(b, lanes.total_us) for b in lanes.bars)}</div>'
    for o in lanes.overlaps:
        exposed = f"{_time(o.own_us)} in all, {_time(o.exposed_us)} exposed"
        yield f'\n<div class="name">{o.count} x {escape(o.kind)}: {exposed}</div>\n'
        mine = sorted((f for f in lanes.flights if f.kind == o.kind), key=lambda f: f.lane)
        for _, flights in groupby(mine, key=lambda f: f.lane):
            bars = "".join(_flight(f, lanes.total_us) for f in flights)
            yield f'<div class="lane flights" data-of="{escape(o.kind)}">{bars}</div>'


def _bar(b: Bar, total_us: float) -> str:
    data = {
        "category": b.category,
        "label": b.label,
        "purpose": b.purpose,
        "origin": b.origin,
        "name": b.name,
    }
    # Only what may be wide enough to read when zoomed in is worth its bytes.
    label = f"<span>{escape(b.label)}</span>" if b.duration_us > total_us / 1000 else ""
    place = _place(b.start_us, b.end_us, total_us)
    return f'<b class="{b.category}" {place} {_data(data)}>{label}</b>'


def _flight(f: Flight, total_us: float) -> str:
    data = {
        "kind": f.kind,
        "name": f.name,
        "own": f"{f.own_us:.3f}",
        "exposed": f"{f.exposed_us:.3f}",
        "delivers": f.delivers,
        "bytes": str(f.bytes or ""),
    }
    own = 100 * min(1.0, f.own_us / (f.end_us - f.start_us))
    place = _place(f.start_us, f.end_us, total_us)
    return f'<b {place} {_data(data)}><i style="width:{own:.3f}%"></i></b>'


def _marks(lanes: Lanes) -> Iterator[str]:
    for a, b in lanes.exposed:
        place = _place(a, b, lanes.total_us)
        yield f'<div class="mark" {place}><span>exposed {_time(b - a)}</span></div>\n'


def _place(start_us: float, end_us: float, total_us: float) -> str:
    left, width = 100 * start_us / total_us, 100 * (end_us - start_us) / total_us
    times = f'data-start="{start_us:.3f}" data-us="{end_us - start_us:.3f}"'
    return f'style="left:{left:.4f}%;width:{width:.4f}%" {times}'


def _data(values: dict[str, str]) -> str:
    return " ".join(f'data-{key}="{escape(value)}"' for key, value in values.items() if value)


def _time(us: float) -> str:
    return f"{us / 1e3:.2f} ms" if us < 1e4 else f"{us / 1e3:.1f} ms"
