"""Weak scaling: one config on more devices, each with as many tokens as before.

Two things can be meant by it, and papers rarely say which. The curve as a picture is
`pictures/plot.py`, the figures of each point are a plan's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table

from moe_jax.config import Config, override
from moe_jax.errors import UserError
from moe_jax.planner.report.figures import Predicted
from moe_jax.planner.report.results import Plan

#: experts: as many experts per device as before, so the model grows with the cluster.
#: replicas: as many experts as before, in more data-parallel copies.
ScaleBy = Literal["experts", "replicas"]


@dataclass(frozen=True)
class ScalingPoint:
    """A plan's place on the curve. `layer_s` is a forward layer's time, None where no layer is."""

    devices: int
    layer_s: float | None
    step_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class ScalingCurve:
    """Points with a name, by number of devices."""

    label: str
    #: compiled or modelled: what the layers' times and the speeds are.
    layer_kind: str
    kind: str
    points: tuple[ScalingPoint, ...]

    def efficiency(self, point: ScalingPoint) -> float:
        """Return tokens/s per device over those of the curve's first point; 1 is linear."""
        first = self.points[0]
        return (point.tokens_per_s / point.devices) / (first.tokens_per_s / first.devices)


def scaled(config: Config, devices: int, by: ScaleBy) -> Config:
    """Put `config` on another number of devices, tokens per device unchanged.

    Args:
        config: the first point of the curve.
        devices: of the new mesh; only its expert axis (by experts) or its data axis (by replicas)
            changes.
        by: whether the model grows with the cluster, or is copied.

    Raises:
        UserError: when the new size is no multiple of the other axes' product, or `by` is unknown.
    """
    if by not in get_args(ScaleBy):
        raise UserError(f"scaling by {by!r} is not known: use {' or '.join(get_args(ScaleBy))}")
    mesh, moe = config.mesh, config.model.moe
    axis = "expert" if by == "experts" else "data"
    now = mesh.pipe * mesh.data * mesh.fsdp * mesh.expert * mesh.tensor
    others = now // getattr(mesh, axis)
    if devices < 1 or devices % others:
        raise UserError(
            f"{config.name} scales to multiples of {others} devices (all mesh axes but {axis}), "
            f"not to {devices}"
        )
    size = devices // others
    changes = [f"mesh.{axis}={size}", f"name={config.name}_{by}_{devices}"]
    if config.train.global_batch * devices % now:
        raise UserError(
            f"train.global_batch ({config.train.global_batch}) on {now} devices cannot be scaled "
            f"to {devices} with the same tokens per device: make it a multiple of {now}"
        )
    changes.append(f"train.global_batch={config.train.global_batch * devices // now}")
    if by == "experts":
        changes.append(f"model.moe.num_experts={moe.num_experts // mesh.expert * size}")
    return override(config, changes)


def scaling_curve(label: str, plans: tuple[Plan, ...]) -> ScalingCurve:
    """Return the curve of plans, by number of devices.

    Args:
        label: its name.
        plans: of one workload on several clusters, in any order.

    Raises:
        UserError: without plans, or for a GPU that XLA estimates no times for.
    """
    if not plans:
        raise UserError("a scaling curve needs at least one plan")
    ordered = sorted(plans, key=lambda plan: plan.target.devices)
    return ScalingCurve(
        label=label,
        layer_kind=_kinds(plan.step.kind for plan in ordered if plan.step),
        kind=_kinds(_predicted(plan).kind for plan in ordered),
        points=tuple(_point(plan) for plan in ordered),
    )


def _kinds(found: Iterable[str]) -> str:
    return " and ".join(sorted(set(found)))


def _point(plan: Plan) -> ScalingPoint:
    predicted = _predicted(plan)
    layer = plan.step.forward.layer if plan.step else None
    return ScalingPoint(
        devices=plan.target.devices,
        layer_s=layer.total_s if layer else None,
        step_s=predicted.step_s,
        tokens_per_s=predicted.tokens_per_s,
    )


def _predicted(plan: Plan) -> Predicted:
    if plan.predicted is None:
        gpu = plan.target.gpu.name
        raise UserError(f"XLA estimates no times for {gpu}: plan for h100, h200 or b200")
    return plan.predicted


def scaling_table(curves: Sequence[ScalingCurve], title: str) -> Table:
    """Return the points of curves, one line each."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("curve")
    for heading in ("devices", "forward layer", "step", "tokens/s", "of linear"):
        table.add_column(heading, justify="right")
    table.add_column("kind")
    for curve in curves:
        for point in curve.points:
            layer = "none" if point.layer_s is None else f"{1e3 * point.layer_s:.1f} ms"
            table.add_row(
                curve.label,
                str(point.devices),
                layer,
                f"{point.step_s:.3f} s",
                f"{point.tokens_per_s:,.0f}",
                f"{curve.efficiency(point):.1%}",
                curve.kind,
            )
    return table
