"""The timeline page: its lanes and marks are the overlap's figures, and it needs nothing else."""

import re
from html.parser import HTMLParser

import pytest
from support.planner.hand_lanes import hand_lanes
from support.planner.hand_schedules import dump

from moe_jax.planner.pictures.lanes import layer_lanes
from moe_jax.planner.pictures.page import Fact, timeline_page
from moe_jax.planner.xla.timeline import parse_timelines

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text); `open` is empty for a page whose tags all close."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def of_class(self, name):
        return [e for e in self.elements if name in e[1].get("class", "").split()]


def draw(layers=None, **changes):
    about = {
        "title": "<b>ep16</b>",
        "subtitle": "2 x 8 H100",
        "kind": "compiled",
        "facts": [Fact("peak memory", "11.0 GiB", "compiled"), Fact("MFU", "40%", "modelled")],
        "notes": ["Attention is modelled."],
    }
    return timeline_page(hand_lanes() if layers is None else layers, **(about | changes))


def layer_pages(html):
    return [
        Page(part) for part in re.findall(r'<section class="card layer".*?</section>', html, re.S)
    ]


def test_every_tag_closes():
    assert Page(draw()).open == []


def test_each_layer_has_a_compute_lane_and_communication_lanes():
    forward, backward = layer_pages(draw())
    for page, lanes in ((forward, 2), (backward, 1)):
        assert len(page.of_class("compute")) == 1
        assert len(page.of_class("flights")) == lanes
    assert [e[1]["data-category"] for e in forward.elements if "data-category" in e[1]] == [
        "matmul",
        "attention",
        "other",
        "other",
    ]


def test_exposed_marks_add_up_to_the_figures():
    for lanes, page in zip(hand_lanes(), layer_pages(draw()), strict=True):
        marks = page.of_class("mark")
        assert len(marks) == len(lanes.exposed)
        exposed = sum(float(e[1]["data-us"]) for e in marks)
        assert exposed == pytest.approx(lanes.overlaps[0].exposed_us)
        widths = [float(re.search(r"width:([\d.]+)%", e[1]["style"])[1]) for e in marks]
        assert sum(widths) == pytest.approx(100 * exposed / lanes.total_us, abs=1e-3)


def test_a_collective_shows_its_own_time_within_its_window():
    forward, _ = layer_pages(draw())
    first = next(e for e in forward.elements if e[1].get("data-kind") == "all-to-all")
    assert (first[1]["data-delivers"], first[1]["data-bytes"]) == ("bf16[8,4]", "64")
    assert float(first[1]["data-own"]) == pytest.approx(100)
    assert float(first[1]["data-exposed"]) == pytest.approx(50)


def test_figures_and_their_kinds_are_written_out():
    page = Page(draw())
    assert [e[2] for e in page.of_class("kind")] == ["compiled", "modelled", "compiled", "compiled"]
    text = " ".join(e[2] for e in page.elements)
    for word in ("11.0 GiB", "0.37 ms", "Attention is modelled.", "4 x all-to-all: "):
        assert word in text


def test_text_is_escaped():
    html = draw()
    assert "<b>ep16</b>" not in html
    assert "<title>&lt;b&gt;ep16&lt;/b&gt;</title>" in html


def test_page_refers_to_nothing_outside_itself():
    html = draw()
    assert not re.search(r"https?:|//[a-z]|\burl\(|@import|<link|\ssrc=|\shref=", html)


def test_page_fits_a_phone():
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in draw()


def test_layer_whose_collectives_all_hide_has_no_marks():
    events = (("a2a-start.4", 0, 0), ("x", 0, 100), ("a2a-done.4", 100, 100))
    (page,) = layer_pages(draw(layer_lanes(parse_timelines(dump(*events)))))
    assert page.of_class("mark") == []
