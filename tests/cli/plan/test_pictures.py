"""`moe-jax plan --timeline --trace`: what is written, and that it is the plan's."""

import json
import re

import pytest
from support.planner.hand_plans import CONFIGS, PAPER, paper_plans

from moe_jax.cli.main import main
from moe_jax.cli.plan.pictures import page_of
from moe_jax.planner import planning

PLAN = paper_plans()["paper_ep16.forward"]
COMMAND = ("plan", str(CONFIGS / "paper_ep16.toml"))


@pytest.fixture
def hand_made(monkeypatch):
    monkeypatch.setattr(planning, "plan", lambda *args, **kwargs: PLAN)


def test_page_and_trace_are_written(hand_made, tmp_path, capsys):
    page, trace = tmp_path / "layer.html", tmp_path / "layer.json"
    assert main([*COMMAND, "--timeline", str(page), "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert "layer.html: open it in a browser" in out
    assert "layer.json: open it at ui.perfetto.dev" in out
    assert page.read_text(encoding="utf-8") == page_of(PLAN)
    events = json.loads(trace.read_text())
    assert events["otherData"]["kind"] == "order compiled, times modelled"
    assert events["otherData"]["plan"] == "paper_ep16, forward"


def test_page_shows_the_plans_figures_with_their_kinds():
    page = page_of(PLAN)
    text = re.sub(r"<[^>]+>", " ", page)
    for figure in ("11.2 GiB, fits", "2.0 GB", "1.66 s", "30.0%", "made by hand", "jax 0"):
        assert figure in text
    assert re.search(r"peak memory per device\s+11.2 GiB, fits\s+compiled", text)
    assert re.search(r"MFU\s+30.0%\s+modelled", text)
    assert f"{PAPER.model.num_layers} layers, 16 experts, on 2 x 8 H100 SXM 80GB" in text


def test_pictures_show_the_same_times_as_the_plan():
    total = float(re.search(r'data-total="([\d.]+)"', page_of(PLAN))[1])
    assert total / 1e6 == pytest.approx(PLAN.step.forward.layer.total_s)


@pytest.mark.parametrize("option", ["--timeline", "--trace"])
def test_file_that_cannot_be_written_is_refused_first(option, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(planning, "plan", lambda *args, **kwargs: pytest.fail("compiled"))
    assert main([*COMMAND, option, str(tmp_path / "none" / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
