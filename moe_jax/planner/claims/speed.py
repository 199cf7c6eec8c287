"""The paper's claims about speed by itself: scaling, and use of the network.

Speed over the baseline is `speedup.py`; claims about sizes are `size.py`, the claims'
figures `paper.py`.
"""

from collections.abc import Mapping

from moe_jax.planner.claims.findings import Claim, Finding, Point
from moe_jax.planner.claims.paper import NEAR_LINEAR, UTILISATION, Evidence, within
from moe_jax.planner.claims.whatif import smallest, step_with_faster_collectives


def check_scaling(e: Evidence) -> Claim:
    """Check that tokens/s grow with the devices, in both readings of how the model grows."""
    findings = (
        _scaling(e, "experts grow with the devices", e.experts),
        _scaling(e, f"{e.config.model.moe.num_experts} experts, replicas", e.replicas),
    )
    return Claim("near-linear scaling", " to ".join([e.label, list(e.experts)[-1]]), findings)


def _scaling(e: Evidence, case: str, names: Mapping[str, str]) -> Finding:
    """Compare tokens/s per device with those of the smallest cluster."""
    names = {e.label: e.forward, **names}
    speeds, sources = e.series(names, "predicted.tokens_per_s")
    per_device = [p.value / e.plans[names[p.at]].target.devices for p in speeds]
    points = tuple(
        Point(p.at, speed / per_device[0]) for p, speed in zip(speeds, per_device, strict=True)
    )
    worst = min(points, key=lambda p: p.value)
    return Finding(
        f"forward, {case}: of linear",
        points,
        "share",
        "modelled",
        "holds" if worst.value >= NEAR_LINEAR else "fails",
        _scaling_takes(e, names[worst.at], worst),
        (
            f"near-linear is read as at least {NEAR_LINEAR:.0%} of linear",
            "speeds predicted from compiled schedules",
        ),
        sources,
    )


def _scaling_takes(e: Evidence, worst: str, point: Point) -> str:
    first, last = e.plans[e.forward], e.plans[worst]

    def reaches(factor: float) -> bool:
        before, after = (step_with_faster_collectives(p, factor) for p in (first, last))
        return before / after >= NEAR_LINEAR

    if point.value >= NEAR_LINEAR:
        return ""
    factor = smallest(reaches, 1.0, 100.0)
    if factor is None:
        return f"no network is fast enough for {NEAR_LINEAR:.0%} at {point.at}"
    return f"collectives {factor:.2f} times as fast, for {NEAR_LINEAR:.0%} at {point.at}"


def check_utilisation(e: Evidence) -> Claim:
    """Check how busy the network is, while collectives cross hosts and over the whole step."""
    trained = {f"{e.label} train": e.train}
    findings = tuple(
        _utilisation(e, case, names, key)
        for key, how in (
            ("wire.nic.inside_windows", "while collectives cross hosts"),
            ("wire.nic.over_step", "averaged over the step"),
        )
        for case, names in ((f"forward, {how}", e.experts), (f"training step, {how}", trained))
    )
    return Claim("network utilisation", "65 to 85 %", findings)


def _utilisation(e: Evidence, case: str, names: Mapping[str, str], key: str) -> Finding:
    points, sources = e.series(names, key)
    verdicts = {within(p.value, *UTILISATION) for p in points}
    low, high = min(p.value for p in points), max(p.value for p in points)
    kinds = {nic.kind for name in names.values() if (nic := e.plans[name].wire.nic)}
    return Finding(
        case,
        tuple(points),
        "share",
        "modelled" if "modelled" in kinds else "compiled",
        "holds" if verdicts == {"holds"} else "fails",
        _utilisation_takes(low, high),
        ("bytes sent to other hosts over line rate x time",),
        sources,
    )


def _utilisation_takes(low: float, high: float) -> str:
    """Say how much shorter, or longer, the same bytes would have to take."""
    least, most = UTILISATION
    if low < least:
        return f"the same bytes in {low / least:.0%} of the time, where it is lowest"
    if high > most:
        return f"the same bytes in {high / most:.0%} of the time, where it is highest"
    return ""
