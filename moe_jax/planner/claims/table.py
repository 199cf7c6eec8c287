"""How the check of the paper's claims looks: one table, and the assumptions it refers to.

What was checked is `report.py`.
"""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from moe_jax.planner.claims.findings import Finding
from moe_jax.planner.claims.paper import TOLERANCE
from moe_jax.planner.claims.report import ClaimsReport

_MARKS = {"holds": "green", "fails": "red", "not stated": "dim"}


def claims_table(report: ClaimsReport) -> Group:
    """Draw every finding by claim; numbers in brackets refer to the assumptions below the table."""
    return Group(*_parts(report))


def _parts(report: ClaimsReport) -> Iterator[RenderableType]:
    assumptions = _assumptions(report)
    table = Table(title="The paper's claims", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("claim", "checked as", "we get", "kind", "verdict", "it takes", "rests on"):
        table.add_column(heading, ratio=_RATIOS.get(heading), overflow="fold")
    for claim in report.claims:
        stated = f"{claim.name}: {claim.stated}"
        for i, finding in enumerate(claim.findings):
            table.add_row(*_row(stated if i == 0 else "", finding, assumptions))
        table.add_section()
    yield table
    yield "Assumptions"
    yield from (f"  [{number}] {text}" for text, number in assumptions.items())
    yield (
        f"A figure holds within {TOLERANCE:.0%} of what is claimed. Compiled: XLA's own result for "
        "the target; modelled: our arithmetic on these assumptions. Nothing here is measured."
    )


_RATIOS = {"claim": 3, "checked as": 4, "we get": 4, "it takes": 5}


def _row(stated: str, f: Finding, numbers: dict[str, int]) -> tuple[str, ...]:
    verdict = f"[{_MARKS[f.verdict]}]{f.verdict}[/]"
    rests_on = " ".join(str(numbers[a]) for a in _basis(f))
    return stated, f.case, f.result, f.kind, verdict, f.takes, rests_on


def _assumptions(report: ClaimsReport) -> dict[str, int]:
    """Return assumption -> its number, in order of first use."""
    found = (a for claim in report.claims for f in claim.findings for a in _basis(f))
    return {text: number for number, text in enumerate(dict.fromkeys(found), 1)}


def _basis(f: Finding) -> Iterator[str]:
    """Yield a finding's assumptions, and the plans that it takes figures from."""
    yield from f.assumptions
    if f.sources:
        yield "figures of the plans " + ", ".join(dict.fromkeys(s.plan for s in f.sources))
