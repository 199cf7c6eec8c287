"""Measurements as tables, every figure beside its bound. Taking them is `bench/`."""

import sys
from collections.abc import Iterator, Sequence

import jax
from rich.console import Console
from rich.table import Table

from moe_jax.bench.decode.times import DecodeTime, DecodeTimes
from moe_jax.bench.programs.layouts import LayoutTime, LayoutTimes
from moe_jax.cli.shared.tables import decimal, headed_table
from moe_jax.hardware.calibration import Calibration, CollectiveTime, Measurement
from moe_jax.hardware.gpus import Gpu


def measurement_table(measurements: Sequence[Measurement], gpu: Gpu | None) -> Table:
    """Return measurements, each beside the peak of what it uses.

    Args:
        measurements: one a row.
        gpu: where they were taken; None for a chip that is not known.
    """
    table = headed_table("Measured", "what", "ms", "spread", "rate", "bound", "of bound", "note")
    for m in measurements:
        scale, unit = (1e-12, "TFLOP/s") if m.unit == "flop" else (1e-9, "GB/s")
        bound = _bound(m, gpu)
        table.add_row(
            title(m),
            f"{m.seconds * 1e3:.4g}",
            f"{m.spread_s / m.seconds:.1%}",
            f"{m.rate * scale:.4g} {unit}",
            f"{bound * scale:.4g} {unit}" if bound else "unknown",
            f"{m.rate / bound:.1%}" if bound else "",
            m.note,
        )
    return table


def collective_table(collectives: Sequence[CollectiveTime], link: float) -> Table:
    """Return collectives, each beside the link.

    Args:
        collectives: one a row.
        link: bytes/s of one device's slowest link, per direction; 0 where it is not known.
    """
    table = headed_table("Collectives", "what", "MiB", "µs", "per device and direction", "link")
    for c in collectives:
        rate = wire_bytes(c) / c.seconds
        table.add_row(
            title(c),
            f"{c.bytes / 2**20:.4g}",
            f"{c.seconds * 1e6:.4g}",
            f"{rate / 1e9:.4g} GB/s",
            f"{link / 1e9:.4g} GB/s" if link else "unknown",
        )
    return table


def wire_bytes(c: CollectiveTime) -> float:
    """Return the bytes that one device has to send, by the best algorithm (ring or direct)."""
    others = c.devices - 1
    factor = {
        "all-to-all": others / c.devices,
        "all-gather": others,
        "all-reduce": 2 * others / c.devices,
        "reduce-scatter": others / c.devices,
    }
    return c.bytes * factor[c.kind]


def rate_table(result: Calibration) -> Table:
    """Return the rates that a plan uses."""
    table = headed_table(f"Calibration of {result.gpu}, {result.date}", "rate", "measured")
    for name, text in _rates(result):
        table.add_row(name, text)
    return table


def layout_table(result: LayoutTimes) -> Table:
    """Return layouts beside the first of them."""
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    table = headed_table(
        f"{result.hardware} on {result.cores} cores, {result.date}, {versions}",
        *("layout", "mesh", "program", "s (measured)", "spread", "tokens/s", "of the first"),
        *("FLOP per device (compiled)", "of the first"),
    )
    for time in result.times:
        flops, ratio = time.device_flops, result.flops_ratio(time)
        table.add_row(
            time.layout,
            time.mesh,
            time.mode,
            f"{time.seconds:.4g}",
            f"{time.spread_s / time.seconds:.1%}",
            f"{time.tokens_per_s:.4g}",
            f"{result.ratio(time):.2f} x",
            decimal(flops) if flops else "follows from data",
            f"{ratio:.2f} x" if ratio else "",
        )
    return table


def layout_line(time: LayoutTime) -> str:
    """Return the line that shows a layout as soon as it is measured."""
    return f"{time.layout}, {time.mesh}, {time.mode}: {time.tokens_per_s:.4g} tokens/s"


def decode_table(result: DecodeTimes) -> Table:
    """Return the ways to generate, each beside the cache at the same batch size."""
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    table = headed_table(
        f"{result.model} in {result.dtype}, {result.mesh}: {result.hardware} on {result.cores} "
        f"cores, {result.date}, {versions}; {result.new_tokens} tokens after "
        f"{result.prompt_tokens}, in a context of {result.context}",
        *("batch", "way", "tokens/s (measured)", "spread", "of the cache", "prompts read in ms"),
    )
    for time in result.times:
        reads = f"{time.prompt_seconds * 1e3:.4g}" if time.prompt_seconds else ""
        table.add_row(
            str(time.batch),
            time.way,
            f"{time.tokens_per_s:.4g}",
            f"{time.spread_s / time.seconds:.1%}",
            f"{result.ratio(time):.2f} x",
            reads,
        )
    return table


def decode_line(time: DecodeTime) -> str:
    """Return the line that shows a way to generate as soon as it is measured."""
    return f"batch {time.batch}, {time.way}: {time.tokens_per_s:.4g} tokens/s"


def _rates(result: Calibration) -> Iterator[tuple[str, str]]:
    for name in ("matmul", "attention_forward", "attention_backward"):
        yield name, f"{getattr(result, f'{name}_flops_per_s') / 1e12:.4g} TFLOP/s"
    if result.grouped_flops_per_s is not None:
        yield "matmul_grouped", f"{result.grouped_flops_per_s / 1e12:.4g} TFLOP/s"
    for name in ("gather", "memory"):
        yield name, f"{getattr(result, f'{name}_bytes_per_s') / 1e9:.4g} GB/s"


def _bound(m: Measurement, gpu: Gpu | None) -> float:
    if gpu is None:
        return 0.0
    return gpu.peak_bf16_flops if m.unit == "flop" else gpu.memory_bandwidth


def title(measured: Measurement | CollectiveTime) -> str:
    """Return what was measured, in a few words."""
    if isinstance(measured, CollectiveTime):
        return f"{measured.kind} {measured.bytes} bytes, {measured.devices} devices"
    return f"{measured.suite.replace('_', ' ')}: {measured.name}"


def console(*, process: int | None = None) -> Console:
    """Return where tables go: wide enough in a file, and nowhere from processes but the first.

    Args:
        process: number of this one; None asks JAX, which thereby takes the devices.
    """
    return Console(
        # A file has no width.
        width=None if sys.stdout.isatty() else 160,
        quiet=(jax.process_index() if process is None else process) != 0,
        markup=False,
        highlight=False,
    )
