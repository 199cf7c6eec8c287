"""The table of findings, and what its numbers refer to."""

import io
from functools import cache

from rich.console import Console
from support.planner.hand_plans import PAPER, paper_plans

from moe_jax.planner.claims.findings import Claim, Finding, Point
from moe_jax.planner.claims.report import ClaimsReport, programs, report
from moe_jax.planner.claims.table import claims_table


@cache
def hand_report() -> ClaimsReport:
    return report(PAPER, programs(PAPER), paper_plans())


def printed(found: ClaimsReport) -> str:
    console = Console(width=240, file=io.StringIO())
    with console.capture() as capture:
        console.print(claims_table(found))
    return capture.get()


def test_table_has_every_finding_and_says_how_it_is_known():
    text = printed(hand_report())
    found = [f for claim in hand_report().claims for f in claim.findings]
    assert sum(text.count(f" {kind} ") for kind in ("compiled", "modelled")) >= len(found)
    for claim in hand_report().claims:
        assert claim.name.split()[0] in text
    assert text.count("naive baseline, balanced routing") == 2
    assert text.count("tuned baseline, skewed routing") == 2
    assert "figures of the plans paper_ep16.forward, paper_ep16_experts_32.forward" in text
    assert "Nothing here is measured." in text


def test_an_assumption_that_two_findings_share_has_one_number():
    def finding(case, *assumptions):
        return Finding(case, (Point("", 1),), "count", "modelled", "holds", "", assumptions)

    claim = Claim("claim", "1", (finding("a", "alone", "both"), finding("b", "both")))
    text = printed(ClaimsReport((claim,), {}))
    assert "[1] alone" in text
    assert "[2] both" in text
    assert "[3]" not in text
    rows = [line.split()[-2:] for line in text.splitlines() if " 1 " in line and " holds " in line]
    assert rows == [["1", "2"], ["holds", "2"]]
