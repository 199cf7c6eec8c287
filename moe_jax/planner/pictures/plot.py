"""The scaling curve as a picture file, PNG or SVG or whatever else matplotlib writes.

What its points are is `search/scaling.py`; pictures of a single layer are `page.py` and `trace.py`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moe_jax.errors import UserError
from moe_jax.planner.search.scaling import ScalingCurve

INSTALL = "pip install 'moe-jax[plot]'"
#: Readable without colour as well.
_STYLES = (("o", "#3f6fe0"), ("s", "#d97a00"), ("^", "#0f9d8a"), ("D", "#b0408f"))


class PlotExtraMissing(UserError):
    """matplotlib is not installed."""


def plot_scaling(curves: Sequence[ScalingCurve], path: str | Path, *, title: str) -> None:
    """Draw weak scaling: a forward layer's time and each device's tokens/s, beside the ideal.

    Args:
        curves: at least one; the ideal stays at its first point's value.
        path: of the file; its ending decides the format.
        title: of the picture.

    Raises:
        PlotExtraMissing: with the line that installs matplotlib.
        UserError: without curves, or for a file name whose ending is no known format.
    """
    if not curves:
        raise UserError("there is no scaling curve to plot")
    figure = _figure(Path(path))
    figure.suptitle(f"{title} (dashed: ideal)")
    layer, speed = figure.subplots(1, 2)
    _draw_layer(layer, curves)
    _draw_speed(speed, curves)
    devices = sorted({point.devices for curve in curves for point in curve.points})
    for axes in (layer, speed):
        axes.set_xscale("log", base=2)
        axes.set_xticks(devices, [str(n) for n in devices])
        axes.minorticks_off()
        axes.set_xlabel("devices")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left")
    # No date inside: the same plan gives the same file.
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    figure.savefig(path, dpi=160, metadata=metadata)


def _draw_layer(axes: Any, curves: Sequence[ScalingCurve]) -> None:
    for curve, style in _styled(curves):
        points = [(p.devices, 1e3 * p.layer_s) for p in curve.points if p.layer_s is not None]
        if points:  # a model too short to be scanned has no layer of its own
            _draw(axes, points, style | {"label": f"{curve.label} ({curve.layer_kind})"})
    axes.set_ylabel("ms")
    axes.set_title("time of one forward layer", fontsize=10)


def _draw_speed(axes: Any, curves: Sequence[ScalingCurve]) -> None:
    for curve, style in _styled(curves):
        last = curve.points[-1]
        linear = f"{curve.efficiency(last):.0%} of linear at {last.devices}"
        points = [(p.devices, p.tokens_per_s / p.devices) for p in curve.points]
        _draw(axes, points, style | {"label": f"{curve.label} ({curve.kind}): {linear}"})
    axes.set_ylabel("tokens/s")
    axes.set_title("speed per device", fontsize=10)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _draw(axes: Any, points: Sequence[tuple[int, float]], style: dict[str, Any]) -> None:
    """Draw a curve, and beside it the ideal of weak scaling: as at its first point."""
    axes.plot(*zip(*points, strict=True), **style)
    axes.plot([n for n, _ in points], [points[0][1]] * len(points), **_IDEAL)
    highest = max(value for _, value in points)
    # Room for the legend, which must not hide a point.
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.35 * highest))


_IDEAL = {"linestyle": "--", "linewidth": 1, "color": "#888888", "zorder": 1}


def _styled(curves: Sequence[ScalingCurve]) -> Iterator[tuple[ScalingCurve, dict[str, Any]]]:
    for i, curve in enumerate(curves):
        marker, color = _STYLES[i % len(_STYLES)]
        yield curve, {"marker": marker, "color": color, "zorder": 2}


def check_plot(path: Path) -> None:
    """Refuse, before anything compiles, a file that could not be drawn afterwards.

    Raises:
        PlotExtraMissing: with the line that installs matplotlib.
        UserError: for a file name whose ending is no known format, or a missing directory.
    """
    if not path.absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: give a file in a directory that exists")
    _figure(path)


def _figure(path: Path) -> Any:
    try:
        # Not pyplot: it keeps figures and picks a window system.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotExtraMissing(f"a plot needs matplotlib: {INSTALL}") from error
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise UserError(f"{path.name} must end in a format such as .png or .svg: {sorted(known)}")
    return figure
