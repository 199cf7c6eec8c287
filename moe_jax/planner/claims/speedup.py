"""The paper's claims of speed over TP=8, PP=2: throughput and latency.

On balanced routing both sides are compiled; skewed routing, and what a claim would take, is
arithmetic. The baselines are `baselines.py`; other claims of speed `speed.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from moe_jax.planner.claims.baselines import BASELINES, Baseline, baseline_config, most_microbatches
from moe_jax.planner.claims.findings import Claim, Finding, Point, Source, show
from moe_jax.planner.claims.paper import LATENCY, SKEW, THROUGHPUT, TOLERANCE, Evidence, at_least
from moe_jax.planner.modelled.estimate import Estimate, estimate
from moe_jax.planner.report.figures import Mode


def check_throughput(e: Evidence) -> Claim:
    findings = tuple(_findings(e, "train", THROUGHPUT))
    return Claim("throughput over TP=8, PP=2 (training step)", f"{THROUGHPUT}x", findings)


def check_latency(e: Evidence) -> Claim:
    findings = tuple(_findings(e, "forward", LATENCY))
    return Claim("latency over TP=8, PP=2 (forward of one batch)", f"{LATENCY}x", findings)


def _findings(e: Evidence, mode: Mode, claimed: float) -> Iterator[Finding]:
    for baseline in BASELINES:
        comparison = Comparison(e, mode, claimed, baseline)
        yield comparison.compiled()
        yield comparison.skewed()


@dataclass(frozen=True)
class Comparison:
    """One step of the same batch, by expert parallelism and by a baseline."""

    evidence: Evidence
    mode: Mode
    claimed: float
    baseline: Baseline

    def compiled(self) -> Finding:
        """Balanced routing, from the compiled schedules of both."""
        e = self.evidence
        names = (e.baselines[self.baseline.name, self.mode], e.ours(self.mode))
        (theirs, _), (ours, _) = (e.read(name, "predicted.step_s") for name in names)
        mfu, _ = e.read(names[0], "predicted.mfu")
        return Finding(
            f"{self.baseline.name} baseline, balanced routing, compiled schedules",
            (Point("", theirs / ours),),
            "times",
            "modelled",
            at_least(theirs / ours, self.claimed),
            f"{self._takes(0.0, mfu, theirs / ours)}{self._misfit()}",
            (
                "steps of both sides predicted from compiled schedules",
                self._agreement(names[0], self._theirs(0.0)),
                self._agreement(names[1], self._ours(0.0)),
                self._unpadded(0.0),
                *self._parts(),
            ),
            tuple(Source(name, "predicted.step_s") for name in names),
        )

    def skewed(self) -> Finding:
        """The busiest expert at `SKEW` over the mean: both sides modelled."""
        theirs, ours = self._theirs(SKEW), self._ours(SKEW)
        speedup = _step(theirs) / _step(ours)
        return Finding(
            f"{self.baseline.name} baseline, skewed routing",
            (Point("", speedup),),
            "times",
            "modelled",
            at_least(speedup, self.claimed),
            self._takes(SKEW, theirs.predicted.mfu, speedup),
            ("both sides by arithmetic", *self._named_assumptions(SKEW), self._unpadded(SKEW)),
        )

    def _theirs(self, skew: float, *changes: str) -> Estimate:
        e = self.evidence
        config = baseline_config(e.config, self.baseline, *changes)
        target = e.plans[e.forward].target
        return estimate(config, target, self.mode, calibration=e.calibration, skew=skew)

    def _ours(self, skew: float) -> Estimate:
        e = self.evidence
        target = e.plans[e.forward].target
        return estimate(e.config, target, self.mode, calibration=e.calibration, skew=skew)

    def _takes(self, skew: float, mfu: float, speedup: float) -> str:
        e, ours = self.evidence, _step(self._ours(skew))
        limit = self.claimed * (1 - TOLERANCE)
        most = most_microbatches(
            e.config,
            self.baseline,
            lambda theirs: _step(theirs) / ours >= limit,
            e.plans[e.forward].target,
            self.mode,
            calibration=e.calibration,
            skew=skew,
        )
        if most is None:
            needed = mfu * speedup / self.claimed
            return f"no number of microbatches; a baseline at {needed:.1%} MFU instead of {mfu:.1%}"
        return f"a baseline of at most {most} microbatch{'es' if most > 1 else ''}"

    def _misfit(self) -> str:
        memory = self.evidence.plans[self.evidence.baselines[self.baseline.name, self.mode]].memory
        if memory.fits:
            return ""
        return f" (this one needs {show(memory.peak_bytes, 'bytes')}: it does not fit)"

    def _parts(self) -> Iterator[str]:
        """Why a batch that the paper may have run as one microbatch is taken in parts."""
        parts = baseline_config(self.evidence.config, self.baseline).train.accumulation
        if parts == 1:
            return
        whole = self._theirs(0.0, "train.accumulation=1")
        yield (
            f"the {self.baseline.name} baseline takes its batch in {parts} parts, each alone in "
            "the pipeline: as slow as the whole batch in one microbatch, which would need "
            f"{show(whole.memory.peak_bytes, 'bytes')} ({self.mode}, modelled)"
        )

    def _agreement(self, name: str, modelled: Estimate) -> str:
        compiled, _ = self.evidence.read(name, "predicted.step_s")
        return (
            f"{name}, balanced: the model says {_step(modelled):.2f} s, the compiled schedule "
            f"{compiled:.2f} s"
        )

    def _unpadded(self, skew: float) -> str:
        """What a grouped matmul would do for the baseline, which exchanges nothing: it has no
        empty rows, and skew costs it nothing."""
        speedup = _step(self._theirs(0.0, "exchange.capacity_factor=1")) / _step(self._ours(skew))
        factor = self.evidence.config.exchange.capacity_factor
        return (
            f"both pad experts' rows to {factor:g} x the mean; with a grouped matmul in the "
            f"{self.baseline.name} baseline it would be {speedup:.2f}x, by arithmetic"
        )

    def _named_assumptions(self, skew: float) -> Iterator[str]:
        """What both rest on once, what only one rests on with its name."""
        theirs, ours = self._theirs(skew).assumptions, self._ours(skew).assumptions
        for assumption in theirs:
            shared = assumption in ours
            yield assumption if shared else f"{self.baseline.name} baseline: {assumption}"
        for assumption in ours:
            if assumption not in theirs:
                yield f"{self.evidence.label}: {assumption}"


def _step(modelled: Estimate) -> float:
    return modelled.predicted.step_s
