"""A profile in a few lines: what is printed as soon as its steps are over."""

from collections.abc import Iterator
from pathlib import Path

from moe_jax.training.reporting.trace.events import newest_profile, read_events
from moe_jax.training.reporting.trace.measured import Profile, measure_profile


def summarize_profile(directory: Path, steps: int) -> list[str]:
    """Return the newest profile's summary.

    Args:
        directory: where it lies.
        steps: of training that are in it.

    Raises:
        UserError: there is none, or nothing is in it.
    """
    profile = measure_profile(read_events(newest_profile(directory)))
    return list(summary_lines(profile, steps))


def summary_lines(profile: Profile, steps: int) -> Iterator[str]:
    """Yield the summary: a line of where time goes, and one per kind of collective.

    Args:
        profile: of a few steps.
        steps: how many.
    """
    shares = {**profile.kinds, "exposed collectives": profile.exposed_s, "idle": profile.idle_s}
    listed = ", ".join(f"{name} {s / profile.total_s:.1%}" for name, s in shares.items() if s)
    step = profile.total_s / steps * 1e3
    yield f"profile of {steps} steps (measured), {step:.4g} ms each: {listed}"
    for found in profile.collectives:
        busy = found.busy_s / steps * 1e3
        hidden = found.hidden_s / found.busy_s
        yield f"  {found.kind}: {busy:.4g} ms a step, {hidden:.1%} hidden behind compute"
    if profile.slowdown is not None:
        yield f"  products beside collectives take {profile.slowdown:.2f} x their time alone"
