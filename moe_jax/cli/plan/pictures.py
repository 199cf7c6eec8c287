"""`moe-jax plan CONFIG --timeline FILE --trace FILE`: pictures of a plan's layers.

What they show is `planner/pictures/lanes.py`, how `planner/pictures/page.py` and
`planner/pictures/trace.py`; the scaling curve is `scaling.py`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moe_jax.planner.report.results import Plan

if TYPE_CHECKING:
    from moe_jax.planner.pictures.page import Fact


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --timeline and --trace."""
    group = parser.add_argument_group("pictures of a layer, forward and backward")
    group.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE.html",
        help="write a page of what computes and what communicates when, for any browser",
    )
    group.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="the same for Perfetto or about:tracing"
    )


def draw_pictures(args: argparse.Namespace, plan: Plan) -> None:
    """Write the pictures that `add_picture_arguments` asked for.

    Args:
        args: the command line, which names the files.
        plan: what is drawn.

    Raises:
        UserError: the plan has no timeline of a layer that exchanges tokens.
    """
    if args.timeline:
        args.timeline.write_text(page_of(plan), encoding="utf-8")
        print(f"wrote the timeline to {args.timeline}: open it in a browser")
    if args.trace:
        from moe_jax.planner.pictures.lanes import layer_lanes
        from moe_jax.planner.pictures.trace import trace_events

        about = {"plan": _title(plan), "for": _cluster(plan), "kind": _kind(plan)}
        trace = trace_events(layer_lanes(plan.timelines), about)
        args.trace.write_text(json.dumps(trace) + "\n", encoding="utf-8")
        print(f"wrote the trace to {args.trace}: open it at ui.perfetto.dev or about:tracing")


def page_of(plan: Plan) -> str:
    """Return a plan's timeline page, with its figures and assumptions."""
    from moe_jax.planner.pictures.lanes import layer_lanes
    from moe_jax.planner.pictures.page import timeline_page

    versions = ", ".join(f"{name} {number}" for name, number in plan.versions.items())
    return timeline_page(
        layer_lanes(plan.timelines),
        title=_title(plan),
        subtitle=_cluster(plan),
        kind=_kind(plan),
        facts=tuple(_facts(plan)),
        notes=(*plan.assumptions, versions),
    )


def _title(plan: Plan) -> str:
    return f"{plan.config.name}, {plan.mode}"


def _cluster(plan: Plan) -> str:
    model, target = plan.config.model, plan.target
    return (
        f"{model.num_layers} layers, {model.moe.num_experts} experts, on {target.hosts} x "
        f"{target.devices_per_host} {target.gpu.title}"
    )


def _kind(plan: Plan) -> str:
    return f"order compiled, times {plan.step.kind}" if plan.step else "order compiled"


def _facts(plan: Plan) -> "Iterator[Fact]":
    from moe_jax.planner.pictures.page import Fact

    memory, wire = plan.memory, plan.wire
    fits = "fits" if memory.fits else "does not fit"
    peak = f"{memory.peak_bytes / 2**30:.1f} GiB, {fits}"
    yield Fact("peak memory per device", peak, memory.kind)
    yield Fact("sent over the network", f"{wire.inter_host_bytes / 1e9:.1f} GB", wire.kind)
    if speed := plan.predicted:
        yield Fact("step", f"{speed.step_s:.3g} s", speed.kind)
        yield Fact("tokens/s, all devices", f"{speed.tokens_per_s:,.0f}", speed.kind)
        yield Fact("TFLOP/s per device", f"{speed.tflops_per_device:.0f}", speed.kind)
        yield Fact("MFU", f"{speed.mfu:.1%}", speed.kind)
