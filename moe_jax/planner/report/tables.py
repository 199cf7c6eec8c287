"""How a plan's groups of figures look as tables; every line says if it is compiled or modelled.

Which groups a plan has is `results.py`; what they mean is `figures.py`.
"""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moe_jax.planner.report.figures import (
    CollectiveCost,
    LinkBytes,
    Memory,
    Pass,
    Predicted,
    Step,
    Times,
)

_GIB, _MIB = 2**30, 2**20


def memory_table(memory: Memory) -> Table:
    """Peak, parts, and whether it fits."""
    scale, unit = (_GIB, "GiB") if memory.peak_bytes >= _GIB else (_MIB, "MiB")
    table = _table("Memory per device", "part", unit, "share", "kind")
    for part in memory.parts:
        share = f"{part.bytes / memory.peak_bytes:.1%}"
        table.add_row(part.name, f"{part.bytes / scale:,.2f}", share, memory.kind)
    table.add_section()
    verdict = "spare" if memory.fits else "MISSING, it does not fit"
    table.add_row("peak", f"{memory.peak_bytes / scale:,.2f}", "", memory.kind)
    table.add_row(
        f"of {memory.capacity_bytes / scale:,.2f}: {verdict}",
        f"{abs(memory.spare_bytes) / scale:,.2f}",
        "",
        memory.kind,
    )
    return table


def time_table(step: Step) -> Table:
    """Per layer and per step, by category, in ms."""
    headings = ("matmul", "attention", "other", "communication", "hidden", "exposed")
    table = _table("Time in ms", "part", "total", *headings, "kind")
    for name, times in _times(step):
        table.add_row(name, *(f"{1e3 * value:.2f}" for value in _row(times)), step.kind)
    if step.bubble_s:
        share = f"{step.bubble_s / step.total.total_s:.1%} of the step"
        name = "of it the pipeline's bubble"
        table.add_row(name, f"{1e3 * step.bubble_s:.2f}", share, *5 * ("",), step.kind)
    return table


def link_bytes_table(wire: LinkBytes) -> Table:
    """Bytes on the wire, rows, adapters."""
    table = _table("What a device sends in a step", "what", "in total", "per token", "kind")
    for name, total, each in (
        ("over NVLink", wire.intra_host_bytes, wire.intra_host_bytes_per_token),
        ("over the network", wire.inter_host_bytes, wire.inter_host_bytes_per_token),
    ):
        table.add_row(name, _bytes(total), _bytes(each), wire.kind)
    if (bound := wire.inter_host_lower_bound_bytes) is not None:
        table.add_row("network, lower bound", _bytes(bound), "", "modelled")
    if wire.rows:
        padded = wire.rows.padded / (wire.rows.padded + wire.rows.filled)
        rows = f"{wire.rows.padded:,} of {wire.rows.padded + wire.rows.filled:,} ({padded:.1%})"
        table.add_row("rows padded, forward", rows, "", wire.rows.kind)
    if wire.nic:
        for name, used in (
            ("network adapter busy, inside collectives", wire.nic.inside_windows),
            ("network adapter busy, over the step", wire.nic.over_step),
        ):
            table.add_row(name, f"{used:.1%}", "", wire.nic.kind)
    return table


def collectives_table(costs: Sequence[CollectiveCost], most: int = 8) -> Table:
    """XLA's time of one call beside ours, for the `most` that move most."""
    headings = (
        "collective",
        "MiB",
        "devices",
        "calls",
        "XLA, ms (compiled)",
        "ours, ms (modelled)",
    )
    table = _table("Collectives, one call each", *headings)
    for cost in costs[:most]:
        group = f"{cost.devices} on {cost.hosts} host{'s' * (cost.hosts > 1)}"
        xla = "none" if cost.xla_s is None else f"{1e3 * cost.xla_s:.3f}"
        table.add_row(
            cost.collective,
            f"{cost.operand_bytes / _MIB:.4g}",
            group,
            str(cost.calls_per_step),
            xla,
            f"{1e3 * cost.model_s:.3f}",
        )
    if len(costs) > most:
        table.add_row(f"and {len(costs) - most} more", "", "", "", "", "")
    return table


def speed_table(predicted: Predicted) -> Table:
    """Step time, tokens/s, TFLOP/s, MFU."""
    table = _table("Speed", "what", "predicted", "kind")
    for name, value in (
        ("step", f"{predicted.step_s:.4g} s"),
        ("tokens per second, all devices", f"{predicted.tokens_per_s:,.0f}"),
        ("model TFLOP/s per device", f"{predicted.tflops_per_device:.4g}"),
        ("MFU", f"{predicted.mfu:.1%}"),
    ):
        table.add_row(name, value, predicted.kind)
    return table


def _times(step: Step) -> Iterable[tuple[str, Times]]:
    passes: list[tuple[str, Pass]] = [("forward", step.forward)]
    if step.backward:
        passes.append(("backward", step.backward))
    for name, found in passes:
        if found.layer:
            yield f"{name}, one layer", found.layer
    for name, found in passes:
        yield f"{name}, all layers", found.whole
    yield "outside the layers", step.outside
    yield "step", step.total


def _bytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B"


def _row(times: Times) -> tuple[float, ...]:
    return (
        times.total_s,
        times.matmul_s,
        times.attention_s,
        times.other_s,
        times.comm_s,
        times.hidden_comm_s,
        times.exposed_comm_s,
    )


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    return table
